"""What all blocks of a forward pass share, made once for them."""

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from distrain.models.attention.layout import DocumentLayout
from distrain.models.attention.pieces import DocumentPieces
from distrain.models.attention.seen import SeenKeys

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class AttentionPlan:
    """How all blocks of a forward pass attend: only within a document, to no later position.

    No dataclass: engines would rebuild one for every block, and lose what was made for all.

    Args:
        documents: Of the rows.
    """

    def __init__(self, documents: DocumentLayout) -> None:
        self.documents = documents
        self.is_divided = not documents.has_one_document_a_row
        self._seen: dict[int | None, SeenKeys] = {}
        self._block_masks: dict[int | None, BlockMask] = {}
        self._elsewhere: dict[torch.device, AttentionPlan] = {}

    def to(self, device: torch.device | str | int) -> "AttentionPlan":
        """Return it on the device of other blocks: accelerate asks, as it does of tensors.

        Each device has one, which its blocks share.
        """
        device, documents = torch.empty(0, device=device).device, self.documents
        if device == documents.cu_seqlens.device:
            return self
        if device not in self._elsewhere:
            tensors = documents.cu_seqlens.to(device), documents.position_ids.to(device)
            assert documents.columns is None, "a model is spread over devices, or its rows are"
            self._elsewhere[device] = AttentionPlan(DocumentLayout(*tensors, documents.lengths))
        return self._elsewhere[device]

    @cached_property
    def pieces(self) -> DocumentPieces:
        """The rows cut into documents."""
        return DocumentPieces(self.documents.lengths, self.documents.cu_seqlens.device)

    def seen(self, window: int | None) -> SeenKeys:
        """Return which keys each query that is here sees."""
        if window not in self._seen:
            self._seen[window] = SeenKeys(self.documents, window)
        return self._seen[window]

    def block_mask(self, window: int | None) -> "BlockMask":
        """Return FlexAttention's mask; a family may have blocks with a window and without."""
        if window not in self._block_masks:
            from distrain.models.attention.flex import block_mask  # imports torch's compiler

            self._block_masks[window] = block_mask(self.seen(window))
        return self._block_masks[window]


def plan_attention(documents: DocumentLayout) -> AttentionPlan:
    """Prepare to attend; a model does it once a forward pass, and hands the plan to its blocks."""
    return AttentionPlan(documents)
