"""The state of the whole model, of which each rank of a pipeline holds a part.

Every rank names every entry, in the same order: what it does not hold has no boxes there.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from distrain.optim.state import Scalar, ScalarState
from distrain.parallel.global_tensor import GlobalTensor, State
from distrain.parallel.ranks import Ranks

Form = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of an entry."""
SECTIONS = ("model", "buffer")
"""Prefixes of entries that are no optimizer's, in the order in which they come."""


@dataclass(frozen=True)
class Catalog:
    """Names and forms of all entries, in the order of one process.

    Args:
        ranks: Of the run.
        forms: By name of entry.
        buffers_here: Entries of buffers that this rank writes: it is the first to hold them.
    """

    ranks: Ranks
    forms: dict[str, Form]
    buffers_here: frozenset[str]

    @classmethod
    def of(cls, own: State, ranks: Ranks, parameters: Sequence[str]) -> "Catalog":
        """Ask all ranks what they hold. Collective.

        Args:
            own: This rank's state.
            ranks: Of the run.
            parameters: Plain names of all parameters, in order.
        """
        mine = {name: (entry.shape, entry.dtype) for name, entry in own.items()}
        gathered = cast("list[dict[str, Form]]", ranks.host.gather(mine))
        found: dict[str, Form] = {}
        first: dict[str, int] = {}
        for rank, forms in enumerate(gathered):
            for name, form in forms.items():
                found.setdefault(name, form)
                first.setdefault(name, rank)
        order = {name: place for place, name in enumerate(parameters)}

        def place(name: str) -> tuple[int, int]:
            section, _, plain = name.partition("/")
            kind = SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)
            return kind, order.get(plain, len(order))

        forms = {name: found[name] for name in sorted(found, key=place)}
        here = frozenset(
            name for name in own if name.startswith("buffer/") and first[name] == ranks.host.rank
        )
        return cls(ranks, forms, here)

    def complete(self, own: State, copied: Collection[str], *, with_optimizer: bool) -> State:
        """Put what this rank holds among what others do.

        Args:
            own: Entries of this rank's stages.
            copied: Plain names of parameters that another stage saves.
            with_optimizer: Whether entries of the optimizer belong there.
        """
        state: State = {}
        for name, (shape, dtype) in self.forms.items():
            section, _, plain = name.partition("/")
            if section not in SECTIONS and not with_optimizer:
                continue
            entry = own.get(name)
            if entry is None:
                state[name] = GlobalTensor(shape, dtype, (), writes=False)
            elif section == "buffer":
                state[name] = replace(entry, writes=name in self.buffers_here)
            else:
                state[name] = replace(entry, writes=entry.writes and plain not in copied)
        return state

    def join_scalars(self, own: ScalarState) -> ScalarState:
        """Collect the scalars of all stages, in the order of parameters. Collective."""
        gathered = cast(
            "list[dict[str, dict[str, Scalar]]]",
            self.ranks.host.gather({entry: dict(each) for entry, each in own.scalars.items()}),
        )
        plain = [name.partition("/")[2] for name in self.forms if name.startswith("model/")]
        joined: dict[str, dict[str, Scalar]] = {}
        for entry in own.scalars:
            found: dict[str, Scalar] = {}
            for of_rank in reversed(gathered):  # of a copy, what its owner has
                found |= of_rank.get(entry, {})
            joined[entry] = {name: found[name] for name in plain if name in found}
        return replace(own, scalars=joined)
