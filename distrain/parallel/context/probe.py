"""A few tokens through a model whose rows are cut: does only attention look at other columns?

What lets neighbouring positions meet elsewhere, as a convolution or a recurrent state does, would
compute with the wrong neighbours at every edge of a stripe. Two passes over the same tokens tell,
one over whole rows on each rank, and one over the rank's columns.
"""

import torch
from torch import nn

from distrain.errors import RecipeError
from distrain.parallel.context.forward import ColumnForward

MEAN_MOVED = 1e-3
"""Of the largest score: how far sums in another order may move the scores in the mean, in fp32."""
MEAN_MOVED_OF_LESS = 5e-2
"""The same in lower precisions, in which experts may be chosen anew at single positions."""


@torch.no_grad()
def require_equal_over_columns(
    module: nn.Module, forward: ColumnForward, vocab_size: int, device: torch.device
) -> None:
    """Refuse a model whose scores depend on how its rows are cut. Collective.

    Args:
        module: What the engine's forward pass calls.
        forward: Of the model within.
        vocab_size: Of the model, V.
        device: Of inputs.

    Raises:
        RecipeError: Something besides attention mixes positions.
    """
    stripes = forward.stripes
    length = 2 * stripes.num_ranks * stripes.width + 3  # padded, too
    numbers = torch.arange(2 * length, device=device).view(2, length)
    ids = (numbers * 7 + numbers // 3) % vocab_size
    was_training = module.training
    module.eval()
    try:
        over_columns = module(ids)
        with forward.uncut():
            whole = module(ids)
    finally:
        module.train(was_training)
    is_exact = whole.dtype.itemsize >= torch.float32.itemsize
    allowed = (MEAN_MOVED if is_exact else MEAN_MOVED_OF_LESS) * whole.abs().max()
    moved = (over_columns - whole).abs().amax(-1).float().mean()
    if moved > allowed:
        raise RecipeError(
            "parallelism.context_parallel",
            f"{stripes.num_ranks}, with a model in which positions meet outside of attention",
            "1, or a model in which only attention looks at other positions",
            "Set parallelism.context_parallel to 1.",
        )
