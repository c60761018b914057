"""Section of layers 1 and 2 for fine-tuning: where examples come from and how they are laid."""

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from distrain.config.added_tokens import TokenNames
from distrain.config.data import MAIN_SOURCE, SOURCE_NAME
from distrain.config.labels import PairChecksConfig
from distrain.config.loading import Weights
from distrain.config.rows import FieldName
from distrain.config.section import Section
from distrain.config.sources import (
    MAX_PER_PREFIX,
    DatasetsSection,
    FilesSection,
    HubSection,
    PythonStdlibSource,
)

VALIDATION = "validation"
"""Name under which the examples of ``data.validation`` stand beside the sources."""
OWN_KEYS = ("path", "source", "sources")
"""The ways to name data of one's own; a recipe uses one of them, or none."""
SAVED_DATASET = ("dataset_dict.json", "dataset_info.json")
"""Files in a folder that ``save_to_disk`` wrote: of several splits, or of one."""

DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
FieldNames = dict[FieldName, str]
Truncation = Literal["refuse", "drop", "cut", "cut_left"]


def _as_text(day: object) -> object:
    """Take a day as YAML reads one without quotes."""
    return day.isoformat() if type(day) is date else day


def _is_day(text: str) -> str:
    date.fromisoformat(text)
    return text


_Day = Annotated[
    str,
    Field(pattern=DAY, examples=["2026-11-30"]),
    AfterValidator(_is_day),
    BeforeValidator(_as_text),
]


class RowFields(Section):
    """What the fields of the rows are called."""

    fields: FieldNames = Field(default_factory=dict)
    """Of this source; default: what ``data.fields`` says. The two are not mixed."""


class ChatFiles(RowFields, FilesSection):
    """Files of this machine or of a store, an example a row."""


class ChatDatasets(RowFields, DatasetsSection):
    """Files of any format that the ``datasets`` library reads, an example a row."""


class ChatHub(RowFields, HubSection):
    """A dataset of the hub, or a folder that ``save_to_disk`` wrote, an example a row."""


class ChatDocstrings(Section):
    """Documented functions of this interpreter's standard library: examples on every machine."""

    kind: Literal["python_docstrings"]
    preference: bool = False
    """Rows with the function's own docstring as ``chosen`` and another one of its module as
    ``rejected``, instead of prompt and answer."""
    instruction: str = "Write the docstring of this Python function.\n\n"
    """Stands before the function."""
    exclude: tuple[str, ...] = PythonStdlibSource.model_fields["exclude"].default
    """Folder names left out."""
    max_prompt_characters: Annotated[int, Field(ge=1)] = 600
    """Of a longer function, the whole lines at its beginning are kept."""
    min_answer_characters: Annotated[int, Field(ge=1)] = 20
    """A function with a shorter docstring is left out."""
    max_answer_characters: Annotated[int, Field(ge=1)] = 200
    """A function with a longer docstring is left out."""

    fields: ClassVar[FieldNames] = {}
    max_document_bytes: ClassVar[int] = 2**28


class ChatMachine(ChatDocstrings):
    """What this machine says of its parts: ``python_docstrings``, and lines about other things.

    Those are what manual pages (``/usr/share/man``) and Debian packages say in a line of what they
    describe; a machine without them has docstrings.
    """

    kind: Literal["machine_chats"]  # type: ignore[assignment]
    max_per_prefix: Annotated[int, Field(ge=1)] = MAX_PER_PREFIX
    """As of ``machine_texts``."""


ChatSource = ChatFiles | ChatDatasets | ChatHub | ChatDocstrings | ChatMachine
_ChatSource = Annotated[ChatSource, Field(discriminator="kind")]


class ExampleDataConfig(Section):
    """Where examples come from, and how each of them is laid out."""

    path: str | None = None
    """A file, folder, glob or URL of examples in any form of ``docs/chats.md``: JSONL, JSON, CSV,
    Parquet, Arrow, or a folder that ``save_to_disk`` of ``datasets`` wrote."""
    source: _ChatSource | None = None
    """The same with settings of its own; its name is ``main``."""
    sources: dict[str, _ChatSource] | None = None
    """Several sources by name, to be mixed in training."""
    fields: FieldNames = Field(default_factory=dict)
    """What the fields are called, where it is not what they are: ``{prompt: question, answer:
    solution}``."""
    skip_budget: Annotated[int, Field(ge=0)] = 0
    """Rows tolerated that cannot be read or make no example; they are counted and listed."""
    train_on: Literal["assistant", "last", "completion", "all"] = "assistant"
    """What is trained of a chat: every turn of the assistant; its last turn; what it says
    after the last turn of the user, calls of tools included; or all of it."""
    template_arguments: dict[str, Any] = Field(default_factory=dict)
    """Passed to the chat template, such as ``{enable_thinking: false}``."""
    template_date: _Day | None = None
    """The day that a chat template is told when it asks for the date (``strftime_now``). Default:
    the day on which the run was made, which its ``resolved.yaml`` then states."""
    truncation: Truncation = "refuse"
    """Of examples that do not fit into ``training.sequence_length``. ``refuse``: what stands before
    the answer loses the beginning of its contents; up to 0.1 % of the examples, whose answer does
    not fit, are left out, and named; with more the stage does not begin. ``drop``: what does not
    fit whole is left out, however much. ``cut``: contents before the answer give way, then the end
    does. ``cut_left``: contents give way from the left, answers too, but for the last one."""

    @model_validator(mode="after")
    def _one_way_to_name_data(self) -> Self:
        given = [key for key in OWN_KEYS if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(OWN_KEYS)}; found {' and '.join(given)}")
        if self.sources == {}:
            raise ValueError(
                "sources is empty; name at least one source, such as chats: {kind: files, ...}"
            )
        for name in self.sources or ():
            if not re.fullmatch(SOURCE_NAME, name) or name == VALIDATION:
                raise ValueError(
                    f"'{name}' cannot name a source; use letters, digits, '_' and '-', with a "
                    f"letter first, and not '{VALIDATION}'"
                )
        return self

    @property
    def reads_preferences(self) -> bool:
        """Whether a row has a chosen and a rejected answer."""
        return False

    @property
    def is_own(self) -> bool:
        """Whether the examples come from files of the user's, not from the prepare stage."""
        return any(getattr(self, key) is not None for key in OWN_KEYS)

    @property
    def named_sources(self) -> dict[str, ChatSource]:
        """Every source to train on by its name, with its fields, in the order of the recipe.

        A ``path`` is looked at: a folder may be one that ``save_to_disk`` wrote.
        """
        found: dict[str, ChatSource] = dict(self.sources or {})
        if self.path is not None:
            found = {MAIN_SOURCE: source_of_path(self.path)}
        if self.source is not None:
            found = {MAIN_SOURCE: self.source}
        return {name: self._with_fields(source) for name, source in found.items()}

    def setting_of(self, name: str) -> str:
        """Return the setting that holds a source, such as ``data.sources.chats``."""
        if self.sources is not None:
            return f"data.sources.{name}"
        return "data.path" if self.path is not None else "data.source"

    @property
    def settings_of_sources(self) -> dict[str, ChatSource]:
        """Every source that is read by the setting that holds it."""
        return {self.setting_of(name): source for name, source in self.named_sources.items()}

    def _with_fields(self, source: ChatSource) -> ChatSource:
        if source.fields or isinstance(source, ChatDocstrings):
            return source
        return source.model_copy(update={"fields": self.fields})


class MeasuredDataConfig(ExampleDataConfig):
    """Examples of one's own to measure a model on, all of them."""

    # What defaults say of data is of data to train on.
    yields: ClassVar[frozenset[str]] = frozenset(ExampleDataConfig.model_fields)

    beside: str | None = None
    """A folder or ``FILE.gguf`` whose model is measured on the same examples, in the place of what
    the measured one was made from. Of a folder nobody knows that. It has the same tokenizer, and
    may be of other sizes."""

    @model_validator(mode="after")
    def _names_data(self) -> Self:
        if not self.is_own:
            raise ValueError(f"names no data; set one of {', '.join(OWN_KEYS)}, or remove data")
        return self


class SftDataConfig(ExampleDataConfig):
    """Where ``sft`` takes its examples from; default: the pairs of the prepare stage."""

    # Recipes were written when these were keys of ``prepare`` and ``pretrain`` only.
    yields: ClassVar[frozenset[str]] = frozenset(
        {"source", "sources", "mixture", "test_fraction", "skip_budget", "packing"}
    )

    mixture: Weights | None = None
    """Weights by source; a source without a weight is not read. Default: every example of every
    source once an epoch."""
    validation: _ChatSource | None = None
    """What is validated with; then nothing of the other sources is held out for it. A prompt that
    is in both is refused."""
    checks: PairChecksConfig = PairChecksConfig()
    """What the pairs have to be like."""
    add_tokens: TokenNames = ()
    """Names of control tokens that the base's tokenizer gets, such as ``<|tool|>``, for a chat
    template that writes them. The model gets rows for them, which begin with the mean of the others
    and are trained: see ``docs/fine-tuning.md``. It cannot change at a resume."""
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Share of the prompts that is held out, chosen by their hash."""
    test_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """As ``validation_fraction``, of the prompts that only ``evaluate`` reads."""
    packing: Literal["none", "best_fit"] = "none"
    """``none``: one example a row. ``best_fit``: as many whole examples as fit, each attending to
    itself only. It cannot change at a resume."""

    @model_validator(mode="after")
    def _has_data_to_divide(self) -> Self:
        if not self.is_own:
            for key in ("mixture", "validation", "fields"):
                if getattr(self, key):
                    raise ValueError(
                        f"{key} is of data of one's own, and there is none; set path, source or "
                        f"sources, or remove {key}"
                    )
        return self

    @model_validator(mode="after")
    def _mixes_sources_that_there_are(self) -> Self:
        names = [MAIN_SOURCE] if self.sources is None else list(self.sources)
        unknown = [name for name in self.mixture or () if name not in names]
        if unknown:
            raise ValueError(
                f"mixture: no source is called '{unknown[0]}'; sources: {', '.join(names)}"
            )
        return self

    @property
    def validation_source(self) -> ChatSource | None:
        """What ``validation`` names, with its fields."""
        return None if self.validation is None else self._with_fields(self.validation)

    def setting_of(self, name: str) -> str:
        """Return the setting that holds a source, that of ``validation`` too."""
        return f"data.{VALIDATION}" if name == VALIDATION else super().setting_of(name)

    @property
    def settings_of_sources(self) -> dict[str, ChatSource]:
        """Every source that is read, that of ``validation`` too, by the setting that holds it."""
        found = super().settings_of_sources
        if self.validation_source is not None:
            found[self.setting_of(VALIDATION)] = self.validation_source
        return found


class PreferenceDataConfig(SftDataConfig):
    """Where ``preference`` takes its pairs of answers from: data of one's own, as for ``sft``."""

    # Of the two it knows one value only: what defaults say is for those that have a choice.
    yields: ClassVar[frozenset[str]] = SftDataConfig.yields | {"train_on"}

    train_on: Literal["completion"] = "completion"
    """What answers the last turn of the user, calls of tools included: all before is the prompt."""
    packing: Literal["none"] = "none"
    """A pair is a row of its own, whose two answers attend to themselves only."""

    @property
    def reads_preferences(self) -> bool:
        """Whether a row has a chosen and a rejected answer."""
        return True


def source_of_path(path: str) -> ChatSource:
    """Return the source that a path, folder, glob or URL stands for."""
    if is_saved_dataset(path):
        return ChatHub(kind="hub", path=path)
    return ChatFiles(kind="files", paths=(path,))


def is_saved_dataset(path: str) -> bool:
    """Return whether a folder of this machine is one that ``save_to_disk`` wrote."""
    return any((Path(path).expanduser() / name).is_file() for name in SAVED_DATASET)
