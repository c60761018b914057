"""The floor: a training loop of plain torch with the same model, engine, optimizer and batch.

It reads tensors that lie ready in memory, records nothing, saves nothing, agrees on nothing.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def bare_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    microbatches: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    max_grad_norm: float,
) -> float:
    """Make one update; (input_ids, target_ids, document_ids, position_ids) a microbatch."""
    total = 0.0
    for input_ids, target_ids, document_ids, position_ids in microbatches:
        logits = model(input_ids, document_ids=document_ids, position_ids=position_ids)
        loss = F.cross_entropy(logits.flatten(0, 1), target_ids.flatten(), ignore_index=-100)
        (loss / len(microbatches)).backward()
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    optimizer.step()
    optimizer.zero_grad()
    return total + 0.0 * float(norm)


Step = Callable[[], None]
