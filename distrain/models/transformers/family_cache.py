"""What is kept of growing texts in transformers' own cache, which knows each family's layers.

Whether a family goes on from it as if all were computed at once, a few tokens tell, as nobody has
read all families: moshi's cache, for one, keeps less than its layers attend to.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distrain.models.causal_lm import CausalLM
from distrain.models.key_value_cache import KeyValueCache
from distrain.models.transformers.interface import AttentionRecord, recording
from distrain.models.transformers.probe import ROUNDING_OF_LESS

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedConfig

PARTS = (3, 1, 2)
"""Tokens of the calls in which a text is tried."""
ROUNDING = 1e-3
"""Of the largest score: what another order of sums, and no mistake, moves in float32."""


class FamilyCache(KeyValueCache):
    """Keys and values by transformers; of layers with a window, no more than the window needs.

    Args:
        config: Of the family.
        turns: Lengths beyond which the keys of a text's beginning change too (LongRoPE).
    """

    def __init__(self, config: "PreTrainedConfig", turns: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self._config = config
        self._turns = turns
        self.kept = self._empty()

    def take_in(self, ids_BT: Tensor) -> tuple[Tensor, int]:
        """Take new ids in.

        Returns:
            What is to be computed, mostly the same ids, and the position of its first token.
        """
        seen = self.length
        ids_BS = self.add_ids(ids_BT)
        if any(0 < seen <= turn < self.length for turn in self._turns):
            self.kept = self._empty()
            return ids_BS, 0
        return ids_BT, seen

    def keeps_what(self, record: AttentionRecord) -> bool:
        """Return whether no layer forgets what its attention, as recorded, goes back to."""
        windows = {
            getattr(module, "layer_idx", None): window
            for module, window in zip(record.layers, record.windows, strict=True)
        }
        for number, layer in enumerate(self.kept.layers):
            kept, seen = getattr(layer, "sliding_window", None), windows.get(number)
            if kept is not None and (seen is None or seen > kept):
                return False
        return True

    def _empty(self) -> "DynamicCache":
        from transformers import DynamicCache

        return DynamicCache(config=self._config)


@torch.no_grad()
def can_continue(model: CausalLM, cache: FamilyCache) -> bool:
    """Try whether a text in parts, with an empty ``cache``, has the scores of one as a whole."""
    tokens = torch.arange(sum(PARTS), device=model.input_device).unsqueeze(0)
    ids = (tokens * 5 + 1) % model.vocab_size
    try:
        with recording() as record:
            scores = [model.next_scores(part, cache) for part in ids.split(PARTS, dim=1)]
    except (ValueError, TypeError, AttributeError):
        return False
    whole = model.next_scores(ids, KeyValueCache())
    is_exact = whole.dtype.itemsize >= torch.float32.itemsize
    allowed = (ROUNDING if is_exact else ROUNDING_OF_LESS) * whole.abs().max()
    return cache.keeps_what(record) and bool((scores[-1] - whole).abs().max() <= allowed)
