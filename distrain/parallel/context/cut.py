"""The forward pass of a model over the columns of its rows that this rank holds.

A rank is given whole rows, as without this axis. What comes back has the shape that was asked for,
of whole rows too, and holds what this rank's columns add to it: losses of others' targets are 0,
and sums over groups are parts of them. Tasks and loop sum over ranks anyway. Logits are whole.

Shape legend: B = sequences in a microbatch, S = columns of a whole row, T = those here, N = places
whose losses are asked for, G = groups of rows or places, V = vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

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


def cut_over(module: nn.Module, group: dist.ProcessGroup, stripes: Stripes) -> None:
    """Let ``module``, whose forward pass is a ``CausalLM``'s, compute the columns of this rank.

    Args:
        module: Changed in place, before an engine wraps it.
        group: Of the ranks that share the columns of the same rows, in the order of the stripes.
        stripes: How the rows are cut.
    """
    parts = PARTS_ON_GPU if dist.get_backend(group) == "nccl" else 1
    # A module's ``forward`` is what its hooks surround: those of engines stay around this one.
    module.forward = ColumnForward(module.forward, StripeGathering(group, stripes, parts))


@dataclass(frozen=True)
class Places:
    """Those of some places in whole rows that lie in the columns of this rank.

    Args:
        here: The same places in this rank's rows laid end to end, shape (n,), never empty.
        chosen: Which of all the places they are, shape (n,); empty where a stand-in is in ``here``.
        counts: How many of them each group has, on the host.
        are_own: False where all places lie elsewhere. One position then stands in for them: ranks
            run the same backward passes, whatever they hold.
    """

    here: Tensor
    chosen: Tensor
    counts: tuple[int, ...] | None
    are_own: bool


class ColumnForward:
    """What a model's ``forward`` becomes.

    Args:
        whole: The ``forward`` of the model, which takes the rows that it is given as they are.
        gathering: Of keys and values, and of logits.
    """

    def __init__(self, whole: Callable[..., Tensor], gathering: StripeGathering) -> None:
        self.whole, self._gathering = whole, gathering
        self._stripes = gathering.stripes
        self._columns = cache(self._make_columns)

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
        length = input_ids.shape[1]
        columns = self._columns(self._stripes.row_length(length), input_ids.device)
        layout = in_columns(documents or undivided(input_ids), columns)
        padding = columns.row_length - length
        ids_BT = columns.of(F.pad(input_ids, (0, padding)))
        if target_ids is not None:
            targets_BT = columns.of(F.pad(target_ids, (0, padding), value=IGNORE_INDEX))
        if places is None:
            if target_ids is None:
                return self._whole_logits(self.whole(ids_BT, documents=layout), length)
            out = self.whole(
                ids_BT, target_ids=targets_BT, rows=rows, documents=layout, with_hits=with_hits
            )
            return out if rows is not None else _spread(out, -1, columns.on_device, length, padding)
        own = self._own(places, length, ids_BT.shape[1], rows)
        if target_ids is None:
            logits_NV = self.whole(ids_BT, documents=layout, places=own.here)
            return self._logits_at(logits_NV, own, len(places))
        if not own.are_own:
            targets_BT = torch.full_like(targets_BT, IGNORE_INDEX)
        out = self.whole(
            ids_BT,
            target_ids=targets_BT,
            rows=own.counts,
            documents=layout,
            places=own.here,
            with_hits=with_hits,
        )
        if rows is not None:
            return out
        return _spread(out.narrow(-2, 0, len(own.chosen)), -2, own.chosen, len(places))

    def _make_columns(self, row_length: int, device: torch.device) -> Columns:
        numbers = self._stripes.numbers(row_length)
        return Columns(numbers, numbers.to(device), row_length, self._gathering)

    def _own(
        self, places: Tensor, length: int, own_length: int, rows: Sequence[int] | None
    ) -> Places:
        # On the host, which has to know how many there are in each group. On a GPU it waits for
        # them: a microbatch says where its targets are in no other way.
        on_host = places.cpu()
        columns = on_host % length
        is_own = self._stripes.owner(columns) == self._stripes.place
        here = on_host // length * own_length + self._stripes.place_within(columns)
        here, chosen = here[is_own], is_own.nonzero().flatten()
        counts = None
        if rows is not None:
            counts = tuple(int(group.sum()) for group in is_own.split(tuple(rows)))
        if len(here):
            return Places(here.to(places.device), chosen.to(places.device), counts, are_own=True)
        stand_in = places.new_zeros(1)
        if counts is not None:
            counts = (1, *counts[1:])
        return Places(stand_in, chosen.to(places.device), counts, are_own=False)

    def _whole_logits(self, logits_BTV: Tensor, length: int) -> Tensor:
        return self._gathering.whole(logits_BTV)[:, :length]

    def _logits_at(self, logits_NV: Tensor, own: Places, num_places: int) -> Tensor:
        mine = _spread(logits_NV[: len(own.chosen)], 0, own.chosen, num_places)
        if mine.requires_grad:
            raise ValueError("logits at places of cut rows are for reading, without gradients")
        dist.all_reduce(mine, group=self._gathering.group)
        return mine


def _spread(own: Tensor, dim: int, numbers: Tensor, length: int, padding: int = 0) -> Tensor:
    """Put what is of this rank where it belongs among zeros, and cut padding off behind it."""
    shape = list(own.shape)
    shape[dim] = length + padding
    whole = own.new_zeros(shape).index_copy(dim, numbers, own)
    return whole.narrow(dim, 0, length).contiguous()


def without_cut(module: nn.Module) -> Callable[..., Tensor]:
    """Return the forward pass over whole rows of a module that ``cut_over`` has changed."""
    return cast(ColumnForward, module.forward).whole
