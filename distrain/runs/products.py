"""Which checkpoint stands for a training stage that is done, and what a later stage was built from.

``result.json`` of the one names step and digest; ``built_on.json`` of the other names them again,
as they were when it began. Launcher and runtime compare the two, so that nothing is ever put
together of parts that do not belong to each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from distrain.errors import PreflightError
from distrain.runs.command import command_again
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.records import is_done, read_json, write_json

CHECKPOINT_FIELD, BEST_FIELD = "checkpoint", "best"
"""Of ``result.json``: the last checkpoint, and the one of the best validation."""
LAST, BEST = "last", "best"
CHOICE_FIELD = "from_checkpoint"
"""Of ``built_on.json``; absent: the last one."""

Choice = int | str
"""Which checkpoint of a stage stands for it: ``last``, ``best``, or that of a step."""


@dataclass(frozen=True)
class Product:
    """The checkpoint that stands for a stage."""

    step: int
    digest: str | None = None
    """Of its weights and buffers; ``None``: the version that made it took none, or a recipe names
    the step and nobody has looked."""
    choice: Choice = field(default=LAST, compare=False)
    """As what it was chosen."""

    def __str__(self) -> str:
        return f"step {self.step}" + (f" (content {self.digest})" if self.digest else "")

    def can_replace(self, other: "Product") -> bool:
        """Return whether what was built on ``other`` could as well have been built on this."""
        if self.digest is None:
            return self.step == other.step
        return self == other

    def to_json(self) -> dict[str, Any]:
        """Return the form in which records hold it."""
        chosen = {} if self.choice == LAST else {CHOICE_FIELD: self.choice}
        return {"step": self.step, "product": self.digest, **chosen}

    @classmethod
    def from_json(cls, value: object) -> Self | None:
        """Read that form; ``None`` if it is another one."""
        if not isinstance(value, dict):
            return None
        step, digest = value.get("step"), value.get("product")
        choice = value.get(CHOICE_FIELD, LAST)
        if not isinstance(step, int) or not isinstance(digest, str | None):
            return None
        return cls(step, digest, choice) if isinstance(choice, int | str) else None


def read_product(folder: StageFolder, choice: Choice = LAST) -> Product | None:
    """Return what a training stage's result names; ``None`` if there is none, or it names none.

    Of a step that a recipe names no digest is known here: the result names the last and the best.
    """
    result = _read(folder.result)
    if choice == BEST:
        best = Product.from_json(result.get(BEST_FIELD))
        return None if best is None else replace(best, choice=BEST)
    # Before there were digests, the last step stood for the stage.
    last = Product.from_json(result.get(CHECKPOINT_FIELD, {"step": result.get("steps")}))
    if last is None or isinstance(choice, str):
        return last
    return Product(choice, last.digest if choice == last.step else None, choice)


def read_sources(folder: StageFolder) -> dict[str, Product]:
    """Return what a stage was built from, by the name of the stage that made it."""
    found = {name: Product.from_json(value) for name, value in _read(folder.built_on).items()}
    return {name: product for name, product in found.items() if product is not None}


def write_sources(folder: StageFolder, sources: Mapping[str, Product]) -> None:
    """Record what a stage is built from, as it begins."""
    write_json(folder.built_on, {name: product.to_json() for name, product in sources.items()})


def check_sources(run: RunFolder, name: str) -> None:
    """Refuse a stage that was built from another product than the one that stands there now.

    Raises:
        PreflightError: Names both stages and both products.
    """
    for source, built_on in read_sources(run.stage(name)).items():
        product = read_product(run.stage(source), built_on.choice)
        if product is not None and is_done(run, source):
            require_same(run, name, source, built_on, product)


def require_same(
    run: RunFolder, name: str, source: str, built_on: Product, product: Product
) -> None:
    """Refuse the stage ``name`` unless ``product`` of ``source`` is what it was built on.

    Raises:
        PreflightError: It is another one.
    """
    if product.can_replace(built_on):
        return
    folder = run.stage(name).path
    raise PreflightError(
        f"stage {name}",
        f"that it was built on {built_on} of stage {source}, which now is {product}",
        f"the product of {source} that it was built on",
        f"Start a new run with name=OTHER; or move {folder} away to have {name} made anew: "
        f"`{command_again(run)}`.",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) or {}
    except (ValueError, RecursionError):
        return {}  # a torn record names nothing
