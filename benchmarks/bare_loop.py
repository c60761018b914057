"""The floor: a training loop of plain torch with the same model, engine, optimizer and batch.

It reads tensors that lie ready in memory, records nothing, saves nothing, agrees on nothing.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor

from distrain.data.samples.loader import Microbatch
from distrain.models.attention import DocumentLayout


def bare_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    microbatches: Sequence[Microbatch],
    max_grad_norm: float | None,
) -> float:
    """Make one update; returns the mean loss of the microbatches."""
    total = 0.0
    for batch in microbatches:
        logits = model(
            batch.input_ids,
            documents=DocumentLayout(batch.cu_seqlens, batch.position_ids, batch.document_lengths),
        )
        loss = F.cross_entropy(logits.flatten(0, 1), batch.target_ids.flatten(), ignore_index=-100)
        (loss / len(microbatches)).backward()
        total += loss.item() / len(microbatches)
    norm = torch.nn.utils.clip_grad_norm_(
        model.parameters(), math.inf if max_grad_norm is None else max_grad_norm
    )
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    optimizer.step()
    optimizer.zero_grad()
    return total if norm.isfinite() else float("nan")
