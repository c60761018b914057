"""Do examples that share a row see each other? Asked of the model as it will train, on a row of it.

A family is probed with a few tokens when its weights are loaded; this is the row itself, with the
lengths and the kernel of the run. Every second example gets other tokens; the losses of all
positions of the others must be the same bits, whatever target they are asked for.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distrain.data.samples.datasets import gather
from distrain.data.samples.examples import ExampleDataset
from distrain.data.samples.loader import Microbatch
from distrain.errors import DataError
from distrain.models.causal_lm import model_in
from distrain.models.transformers.probe import ROUNDING, ROUNDING_OF_LESS
from distrain.parallel.ranks import Ranks
from distrain.tasks.task import forward_targets

LOOKED_AT = 1024
"""Samples among which one with two examples is sought."""


@dataclass(frozen=True)
class Leak:
    """What was found.

    Args:
        examples: In the row that was probed; 0 if no row holds two.
        positions: Whose losses were compared.
        largest: Change of a loss, in nats.
        allowed: Up to which it counts as rounding; 0 where bits must be equal.
    """

    examples: int
    positions: int
    largest: float
    allowed: float

    def to_json(self) -> dict[str, Any]:
        """Form in ``data.json``."""
        return {
            "examples": self.examples,
            "positions": self.positions,
            "largest_change": self.largest,
            "allowed": self.allowed,
        }


@torch.no_grad()
def probe_leaks(
    module: nn.Module,
    dataset: ExampleDataset,
    vocab_size: int,
    device: torch.device,
    ranks: Ranks,
) -> Leak:
    """Run a packed row three times, with other tokens in every second example. Collective.

    Args:
        module: What the engine's forward pass calls.
        dataset: Packed examples.
        vocab_size: Of the model.
        device: Where it computes.
        ranks: All of them judge what any of them found, so that none goes on by itself.

    Raises:
        DataError: An example moves the losses of another.
    """
    counts = [len(dataset.members(index)) for index in range(min(len(dataset), LOOKED_AT))]
    if max(counts, default=0) < 2:
        return Leak(0, 0, 0.0, 0.0)
    row = int(np.argmax(counts))
    examples = counts[row]
    microbatch = _whole_row(dataset, row)
    lengths = microbatch.document_lengths[:examples]
    of_example = np.repeat(np.arange(examples), lengths)
    # What is left of the row is padding, which is neither changed nor compared.
    parity = np.full(microbatch.input_ids.numel(), -1)
    parity[: len(of_example)] = of_example % 2
    was_training = module.training
    module.eval()
    try:
        before = _losses(module, microbatch, device)
        moved = [
            (_losses(module, _changed(microbatch, parity == other, vocab_size), device) - before)[
                torch.from_numpy(parity == 1 - other).to(device)
            ]
            for other in (0, 1)
        ]
    finally:
        module.train(was_training)
    # Where rows are cut into columns, a rank has the losses of its own, and zeros beside them.
    _, (largest, loss) = ranks.exchange(
        maxima=[max(float(part.abs().max()) for part in moved), float(before.abs().max())]
    )
    allowed = _allowed(module, loss)
    if largest > allowed:
        raise DataError(
            "packed examples of the train split",
            f"losses of an example that move by up to {largest:.2e} nats with another's tokens",
            "the same bits" if allowed == 0 else f"at most {allowed:.2e}",
            "Set data.packing to none: this model mixes the documents of a row.",
        )
    return Leak(examples, len(of_example), largest, allowed)


def _whole_row(dataset: ExampleDataset, row: int) -> Microbatch:
    microbatch = Microbatch.from_rows(gather(dataset, np.array([row])), 0, 1)
    # A loss at every position: each is asked for the token that lies before it, which is some one.
    targets = microbatch.input_ids.roll(1, dims=1)
    return Microbatch(
        microbatch.input_ids,
        targets,
        microbatch.position_ids,
        microbatch.cu_seqlens,
        document_lengths=microbatch.document_lengths,
    )


def _changed(microbatch: Microbatch, chosen: np.ndarray, vocab_size: int) -> Microbatch:
    ids = microbatch.input_ids.clone()
    mask = torch.from_numpy(chosen).view_as(ids)
    ids[mask] = (ids[mask] + 1) % vocab_size
    return Microbatch(
        ids,
        microbatch.target_ids,
        microbatch.position_ids,
        microbatch.cu_seqlens,
        document_lengths=microbatch.document_lengths,
    )


def _losses(module: nn.Module, microbatch: Microbatch, device: torch.device) -> Tensor:
    return forward_targets(module, microbatch.to(device)).flatten()


def _allowed(module: nn.Module, loss: float) -> float:
    # The shapes of experts' matrices follow the routing of the whole row.
    if not model_in(module).has_experts:
        return 0.0
    is_exact = all(parameter.dtype.itemsize >= 4 for parameter in module.parameters())
    return (ROUNDING if is_exact else ROUNDING_OF_LESS) * loss
