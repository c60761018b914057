"""What generation keeps of a text, so that a further token costs one position instead of all.

Shape legend: B = texts, T = new positions, S = all positions so far, K = key and value heads, H =
size of a head.
"""

import torch
from torch import Tensor, nn


class KeyValueCache:
    """The ids of growing texts and, of families that keep them, each layer's keys and values."""

    def __init__(self) -> None:
        self._ids: GrowingTensor | None = None
        self._layers: dict[nn.Module, tuple[GrowingTensor, GrowingTensor]] = {}

    @property
    def length(self) -> int:
        """Positions so far, S."""
        return 0 if self._ids is None else self._ids.length

    def add_ids(self, ids_BT: Tensor) -> Tensor:
        """Take new ids in; return all of them, shape (B, S)."""
        if self._ids is None:
            self._ids = GrowingTensor(ids_BT)
            return self._ids.filled
        return self._ids.append(ids_BT)

    def add_keys(self, layer: nn.Module, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values in; return all of them, shape (B, K, S, H)."""
        if layer not in self._layers:
            self._layers[layer] = GrowingTensor(k_BKTH), GrowingTensor(v_BKTH)
            return k_BKTH, v_BKTH
        keys, values = self._layers[layer]
        return keys.append(k_BKTH), values.append(v_BKTH)


class GrowingTensor:
    """A tensor that grows along its positions, and seldom moves.

    Args:
        start: Positions are the last dimension of ids, (B, T), and the one before it of (B, K, T,
            H).
    """

    def __init__(self, start: Tensor) -> None:
        self.axis = 1 if start.dim() == 2 else start.dim() - 2
        self.length = 0
        self._room = start.new_empty(0)
        self._reserve(start, start.shape[self.axis])
        self.append(start)

    @property
    def filled(self) -> Tensor:
        """What is there, a view."""
        return self._room.narrow(self.axis, 0, self.length)

    def append(self, new: Tensor) -> Tensor:
        """Add positions; return all."""
        count = new.shape[self.axis]
        if self.length + count > self._room.shape[self.axis]:
            self._reserve(new, self.length + count)
        self._room.narrow(self.axis, self.length, count).copy_(new)
        self.length += count
        return self.filled

    def _reserve(self, like: Tensor, length: int) -> None:
        """Move to twice the room that is needed: a position is then copied twice on average."""
        shape = list(like.shape)
        shape[self.axis] = 2 * length
        room = torch.empty(shape, dtype=like.dtype, device=like.device)
        if self.length:
            room.narrow(self.axis, 0, self.length).copy_(self.filled)
        self._room = room
