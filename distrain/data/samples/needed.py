"""Layer 3: which positions of a microbatch the losses of its targets need.

What stands behind the last target of all rows is seen by no target. And logits are asked for only
where there is a target: of a chat, that is less than half of its positions.
"""

from typing import NamedTuple

import numpy as np

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.order import Ints
from distrain.data.samples.rows import Rows

MULTIPLE = 8
"""Of the positions of a row: matrix units work on tiles of as many."""


class Needed(NamedTuple):
    """What is computed of a stretch of rows.

    Args:
        length: Positions of each row, from its first.
        places: Of the positions with a target, in the rows of ``length`` laid end to end; int64.
        by_row: How many of ``places`` are in each row.
    """

    length: int
    places: Ints
    by_row: tuple[int, ...]


def find_needed(target_ids: Ints) -> Needed:
    """Look at targets, shape (b, T). Without any, one position stands for all: losses are sums."""
    is_target = target_ids != IGNORE_INDEX
    columns = np.flatnonzero(is_target.any(0))
    last = int(columns[-1]) if columns.size else 0
    length = min(target_ids.shape[1], -(-(last + 1) // MULTIPLE) * MULTIPLE)
    if not columns.size:
        return Needed(length, np.zeros(1, np.int64), (1, *(0,) * (len(target_ids) - 1)))
    is_target = is_target[:, :length]
    return Needed(length, np.flatnonzero(is_target), tuple(is_target.sum(1).tolist()))


def shortened(rows: Rows, start: int, stop: int, length: int) -> Rows:
    """Take the first ``length`` positions of the rows [start, stop)."""
    width = rows.input_ids.shape[1]
    # The end of the last document before the stretch is where the first of it begins.
    first, last = np.searchsorted(rows.cu_seqlens, [start * width, stop * width])
    row, place = np.divmod(rows.cu_seqlens[first:last] - start * width, width)
    begins = (row * length + place)[place < length]
    ends = np.array([(stop - start) * length], np.int32)
    # Copies: a tensor of a strided view would be copied by each kernel that takes it.
    return Rows(
        np.ascontiguousarray(rows.input_ids[start:stop, :length]),
        np.ascontiguousarray(rows.target_ids[start:stop, :length]),
        np.ascontiguousarray(rows.position_ids[start:stop, :length]),
        np.concatenate([begins, ends]).astype(np.int32),
        row_values=None if rows.row_values is None else rows.row_values[start:stop],
    )
