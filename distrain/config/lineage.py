"""Where a stage's data and model come from: a list of (stage, artefact). Pure.

Any training stage starts from the whole model of any earlier one, or from a folder, or from random
weights. The launcher, the checks of a recipe and the stages all follow ``needs`` through here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Artefact = Literal["data", "weights", "adapter"]

ARTEFACTS: Mapping[str, Artefact] = {
    # Kind of stage -> what it leaves to later ones.
    "prepare": "data",
    "pretrain": "weights",
    "sft": "adapter",  # unless it trains every parameter
    "preference": "adapter",  # likewise
}
MODEL_KINDS = tuple(kind for kind, artefact in ARTEFACTS.items() if artefact != "data")
"""Kinds of stages that leave a model."""


class Needing(Protocol):
    """A stage, checked or not, as far as its place among the others goes."""

    @property
    def kind(self) -> str:
        """Of the stage."""

    @property
    def needs(self) -> tuple[str, ...] | None:
        """Names of stages; ``None``: they could not be read."""


@dataclass(frozen=True, slots=True)
class Link:
    """What one stage leaves to those that build on it.

    Args:
        artefact: ``data``: tokenizer, tokens and pairs; ``weights``: every parameter; ``adapter``:
            low-rank matrices, to be merged into the model that the links before it make.
    """

    stage: str
    artefact: Artefact


@dataclass(frozen=True, slots=True)
class Lineage:
    """All that a stage is made of, from the raw text on, in the order in which it was made.

    A training stage is the last link of its own lineage. What it reads is the last ``data`` before
    it; one that reads the same as the stage before it has no ``data`` link of its own.
    """

    links: tuple[Link, ...] = ()

    @property
    def data(self) -> str | None:
        """The prepare stage that the last training stage reads; ``None``: it reads a file."""
        return next((link.stage for link in reversed(self.links) if _is_data(link)), None)

    @property
    def trained(self) -> tuple[Link, ...]:
        """The links of training stages."""
        return tuple(link for link in self.links if not _is_data(link))

    @property
    def root(self) -> str | None:
        """The training stage that brings the sizes and the tokenizer, itself or from a folder."""
        return self.trained[0].stage if self.trained else None

    @property
    def model(self) -> tuple[Link, ...]:
        """What the whole model at the end is put together of: weights, then adapters in order.

        Without weights, the adapters are those of the folder that the first stage names.
        """
        return self.pretrained.trained[-1:] + self._adapters()

    @property
    def pretrained(self) -> "Lineage":
        """Up to the last stage that trained every parameter; empty if there is none."""
        return Lineage(self.links[: len(self.links) - self._after_weights()])

    @property
    def start(self) -> "Lineage":
        """What the last training stage starts from; empty for a folder or random weights."""
        links = list(self.links[:-1])
        while links and _is_data(links[-1]):
            links.pop()
        return Lineage(tuple(links))

    def up_to(self, stage: str) -> "Lineage":
        """The part that ends with the link of a training stage."""
        numbers = [number for number, link in enumerate(self.links) if link.stage == stage]
        return Lineage(self.links[: numbers[0] + 1])

    @property
    def tuned(self) -> str | None:
        """The last stage, if it trained an adapter."""
        is_tuned = bool(self.links) and self.links[-1].artefact == "adapter"
        return self.links[-1].stage if is_tuned else None

    def _adapters(self) -> tuple[Link, ...]:
        return Lineage(self.links[len(self.links) - self._after_weights() :]).trained

    def _after_weights(self) -> int:
        links = reversed(self.links)
        found = (number for number, link in enumerate(links) if link.artefact == "weights")
        return next(found, len(self.links))


def lineage_of(stages: Mapping[str, Needing], name: str) -> Lineage:
    """Follow ``needs`` from the stage ``name`` to the raw text. Includes a training stage itself.

    Of stages with mistakes it makes what it can: unknown names are passed over, a circle ends.
    """
    links: list[Link] = []
    visited: set[str] = set()
    current: str | None = name
    while current is not None and current not in visited:
        visited.add(current)
        artefact = ARTEFACTS.get(stages[current].kind)
        # Only a stage of fine-tuning has the choice.
        if artefact == "adapter" and getattr(stages[current], "trains_all", False):
            artefact = "weights"
        if artefact is not None:
            links.append(Link(current, artefact))
        data = need_of(stages, current, ("prepare",))
        if data is not None:
            links.append(Link(data, "data"))
        current = need_of(stages, current, MODEL_KINDS)
    return Lineage(tuple(_without_repeated_data(reversed(links))))


def first_of(stages: Mapping[str, Needing], name: str) -> str:
    """Return the stage that says which model a line begins with: its root, or else ``name`` itself.

    A stage that trains nothing, and needs no stage that does, names a folder.
    """
    return lineage_of(stages, name).root or name


def need_of(stages: Mapping[str, Needing], name: str, kinds: tuple[str, ...]) -> str | None:
    """Return the first stage of one of ``kinds`` that ``name`` itself needs, if there is one."""
    needs = stages[name].needs or ()
    return next((n for n in needs if n in stages and n != name and stages[n].kind in kinds), None)


def _is_data(link: Link) -> bool:
    return link.artefact == "data"


def _without_repeated_data(links: Iterable[Link]) -> Iterator[Link]:
    data: Link | None = None
    for link in links:
        if not _is_data(link):
            yield link
        elif link != data:
            data = link
            yield link
