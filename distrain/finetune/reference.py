"""What the model said of pairs of answers before a stage of preferences.

Shape legend: P = pairs of a microbatch.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distrain.data.samples.loader import (
    Microbatch,
    evaluation_microbatches,
    evaluation_shares,
)
from distrain.data.samples.order import Ints
from distrain.data.samples.pairs import PairDataset
from distrain.finetune.lora import adapters_disabled
from distrain.parallel.ranks import Ranks
from distrain.tasks.preference import Reference, answer_logps


def live_reference(module: nn.Module, microbatch: Microbatch) -> Tensor:
    """Run a pass without adapters and without dropout; shape (P, 2), no gradients.

    As many passes on all ranks, where all have as many microbatches.
    """
    with adapters_disabled(module):
        return model_logps(module, microbatch)


def model_logps(module: nn.Module, microbatch: Microbatch) -> Tensor:
    """Run a pass as the model is, without dropout; shape (P, 2), no gradients."""
    # Of what is wrapped: DeepSpeed's engine passes ``eval`` on, and stays in training itself.
    was_training = getattr(module, "module", module).training
    module.eval()
    try:
        with torch.no_grad():
            return answer_logps(module, microbatch)
    finally:
        module.train(was_training)


def compute_reference(
    module: nn.Module,
    dataset: PairDataset,
    device: torch.device,
    micro_batch_size: int,
    ranks: Ranks | None = None,
) -> NDArray[np.float64]:
    """Say of every pair what the model without adapters says, shape (pairs, 2). Collective.

    Each of ``ranks`` computes its share; without them, this process all.
    """
    every = np.arange(len(dataset))
    return say_of_pairs(live_reference, module, dataset, every, device, micro_batch_size, ranks)


def say_of_pairs(  # noqa: PLR0913
    say: Reference,
    module: nn.Module,
    dataset: PairDataset,
    chosen: Ints,
    device: torch.device,
    micro_batch_size: int,
    ranks: Ranks | None = None,
) -> NDArray[np.float64]:
    """Say of chosen pairs what ``say`` does, shape (pairs, 2); see ``compute_reference``."""
    said = np.zeros((len(chosen), 2))
    rank, size = (0, 1) if ranks is None else (ranks.dp_rank, ranks.dp_size)
    cut = {"micro_batch_size": micro_batch_size, "dp_rank": rank, "dp_size": size}
    shares = evaluation_shares(len(chosen), **cut)
    microbatches = evaluation_microbatches(dataset, indices=chosen, **cut)
    for share, microbatch in zip(shares, microbatches, strict=True):
        logps = say(module, microbatch.to(device))
        if share:
            said[share.start : share.stop] = logps.double().cpu().numpy()
    if ranks is None:
        return said
    # Each pair has one rank that adds something to zeros: the sum is exact.
    return np.array(ranks.sum(*said.flatten().tolist(), of="positions")).reshape(-1, 2)
