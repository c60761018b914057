"""The forward pass of a model over the columns of its rows that this rank holds.

A rank is given whole rows, as without this axis. What comes back has the shape that was asked for,
of whole rows too, and holds what this rank's columns add to it: losses of others' targets are 0,
and sums over groups are parts of them. Tasks and loop sum over ranks anyway. Logits are whole.

Shape legend: B = sequences in a microbatch, S = columns of a whole row, T = those here, N = places
whose losses are asked for, G = groups of rows or places, V = vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from distrain.config.tasks import IGNORE_INDEX
from distrain.models.attention import Columns, DocumentLayout, in_columns, undivided
from distrain.parallel.context.gathering import StripeGathering
from distrain.parallel.context.stripes import Stripes

PARTS_ON_GPU = 4
"""Groups of heads that are gathered one behind the other where that overlaps with computing."""


def cut_over(module: nn.Module, group: dist.ProcessGroup, stripes: Stripes) -> "ColumnForward":
    """Let ``module``, whose forward pass is a ``CausalLM``'s, compute the columns of this rank.

    Args:
        module: Changed in place, before an engine wraps it.
        group: Of the ranks that share the columns of the same rows, in the order of the stripes.
        stripes: How the rows are cut.
    """
    parts = PARTS_ON_GPU if dist.get_backend(group) == "nccl" else 1
    # A module's ``forward`` is what its hooks surround: those of engines stay around this one.
    module.forward = forward = ColumnForward(module.forward, StripeGathering(group, stripes, parts))
    return forward


@dataclass(frozen=True)
class Places:
    """Those of some places in whole rows that lie in the columns of this rank.

    Args:
        here: The same places in this rank's rows laid end to end, shape (n,), never empty.
        chosen: Which of all the places they are, shape (n,); empty where a stand-in is in ``here``.
        counts: How many of them each group has, on the host.
        num_places: Of all ranks.
        are_own: False where all places lie elsewhere. One position then stands in for them: ranks
            run the same backward passes, whatever they hold.
    """

    here: Tensor
    chosen: Tensor
    counts: tuple[int, ...] | None
    num_places: int
    are_own: bool


class ColumnForward:
    """What a model's ``forward`` becomes.

    Args:
        whole: The ``forward`` of the model, which takes the rows that it is given as they are.
        gathering: Of keys and values, and of logits.
    """

    def __init__(self, whole: Callable[..., Tensor], gathering: StripeGathering) -> None:
        self._whole, self._gathering = whole, gathering
        self.stripes = gathering.stripes
        self._columns = cache(self._make_columns)
        self._is_uncut = False

    @contextmanager
    def uncut(self) -> Iterator[None]:
        """Let each rank compute whole rows by itself, within what engines wrap."""
        self._is_uncut = True
        try:
            yield
        finally:
            self._is_uncut = False

    def __call__(
        self,
        input_ids: Tensor,
        *,
        target_ids: Tensor | None = None,
        rows: Sequence[int] | None = None,
        documents: DocumentLayout | None = None,
        places: Tensor | None = None,
        with_hits: bool = False,
    ) -> Tensor:
        """See ``CausalLM.forward``; collective over the ranks that share the rows."""
        if self._is_uncut:
            given = {"target_ids": target_ids, "rows": rows, "documents": documents}
            return self._whole(input_ids, **given, places=places, with_hits=with_hits)
        length = input_ids.shape[1]
        columns = self._columns(self.stripes.row_length(length), input_ids.device)
        layout = in_columns(documents or undivided(input_ids), columns)
        padding = columns.row_length - length
        ids_BT = columns.of(F.pad(input_ids, (0, padding)))
        own = None
        if places is not None:
            own = self._own(places, length, ids_BT.shape[1], rows)
        here = None if own is None else own.here
        if target_ids is None:
            logits = self._whole(ids_BT, documents=layout, places=here)
            if own is None:
                return self._gathering.whole(logits)[:, :length]
            return self._logits_at(logits, own)
        targets_BT = columns.of(F.pad(target_ids, (0, padding), value=IGNORE_INDEX))
        if own is not None and not own.are_own:
            targets_BT = torch.full_like(targets_BT, IGNORE_INDEX)
        out = self._whole(
            ids_BT,
            target_ids=targets_BT,
            rows=rows if own is None else own.counts,
            documents=layout,
            places=here,
            with_hits=with_hits,
        )
        if rows is not None:
            return out
        if own is None:
            return _spread(out, -1, columns.on_device, columns.row_length)[..., :length]
        return _spread(out.narrow(-2, 0, len(own.chosen)), -2, own.chosen, own.num_places)

    def _make_columns(self, row_length: int, device: torch.device) -> Columns:
        numbers = self.stripes.numbers(row_length)
        return Columns(numbers, numbers.to(device), row_length, self._gathering)

    def _own(
        self, places: Tensor, length: int, own_length: int, rows: Sequence[int] | None
    ) -> Places:
        # On the host, which has to know how many there are in each group. On a GPU it waits for
        # them: a microbatch says where its targets are in no other way.
        on_host = places.cpu()
        columns = on_host % length
        is_own = self.stripes.owner(columns) == self.stripes.place
        here = on_host // length * own_length + self.stripes.place_within(columns)
        here, chosen = here[is_own], is_own.nonzero().flatten()
        counts = None
        if rows is not None:
            counts = tuple(int(group.sum()) for group in is_own.split(tuple(rows)))
        are_own = len(here) > 0
        if not are_own:
            here = torch.zeros(1, dtype=torch.int64)
            counts = counts and (1, *counts[1:])
        device = places.device
        return Places(here.to(device), chosen.to(device), counts, len(places), are_own)

    def _logits_at(self, logits_NV: Tensor, own: Places) -> Tensor:
        mine = _spread(logits_NV[: len(own.chosen)], 0, own.chosen, own.num_places)
        if mine.requires_grad:
            raise ValueError("logits at places of cut rows are for reading, without gradients")
        dist.all_reduce(mine, group=self._gathering.group)
        return mine


def _spread(own: Tensor, dim: int, numbers: Tensor, length: int) -> Tensor:
    """Put what is of this rank where it belongs, among zeros."""
    shape = list(own.shape)
    shape[dim] = length
    return own.new_zeros(shape).index_copy(dim, numbers, own)
