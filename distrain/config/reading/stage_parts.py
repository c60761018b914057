"""A stage while it is checked: a mistake in one section does not hide those of the others."""

from dataclasses import dataclass
from typing import TypeVar

from distrain.config.best import FromCheckpoint
from distrain.config.reading.sections import Path
from distrain.config.section import Section

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True, slots=True)
class StageParts:
    """What is known of a stage.

    Args:
        name: Of the stage.
        kind: Of the stage.
        needs: ``None`` when they could not be read.
        sections: Those without a mistake; ``None``: one that is switched off.
        from_checkpoint: Of the stage it builds on; ``last`` too when it could not be read.
    """

    name: str
    kind: str
    needs: tuple[str, ...] | None
    sections: dict[str, Section | None]
    from_checkpoint: FromCheckpoint = "last"

    @property
    def trains_all(self) -> bool:
        """Whether a stage of fine-tuning is without adapters."""
        return "lora" in self.sections and self.sections["lora"] is None

    @property
    def folder(self) -> str | None:
        """The user's model that the stage names itself; ``None`` too if its section is broken."""
        return getattr(self.sections.get("model"), "from_pretrained", None)

    def get(self, name: str, model: type[AnySection]) -> AnySection | None:
        """Return a section; ``None`` when the stage has none, or one with a mistake."""
        section = self.sections.get(name)
        return section if isinstance(section, model) else None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit, or (a note) that is legal but may surprise.

    Args:
        stage: ``None`` for ``launch``.
        path: Of the setting to show, below the stage.
        message: What was found, what was expected, what to do.
        is_note: Whether the recipe is valid all the same.
        at_key: Show the key, not the value.
    """

    stage: str | None
    path: Path
    message: str
    is_note: bool = False
    at_key: bool = False

    @property
    def sentence(self) -> str:
        """The message with the stage that it is about."""
        return self.message if self.stage is None else f"{self.stage}: {self.message}"
