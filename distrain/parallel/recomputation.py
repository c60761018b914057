"""Activation checkpointing: blocks whose activations are made again in the backward pass.

Of such a block only the input is kept. A block's ``forward`` is replaced, and not the block, so
parameters keep their names; what engines hang on a block stays around it.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(module: nn.Module, classes: tuple[type[nn.Module], ...], every: int) -> None:
    """Let each ``every``-th block of these classes, from the first on, keep its input only.

    Dropout draws the same once more, and bf16 is chosen again where it was: gradients have the
    same bits. Before the engine wraps anything.

    Args:
        module: The model.
        classes: Of its blocks.
        every: 1 for all blocks.
    """
    blocks = [child for child in module.modules() if isinstance(child, classes)]
    for block in blocks[::every]:
        block.forward = _recomputed(block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def call(*args: object, **keywords: object) -> object:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **keywords)
        return checkpoint(partial(forward, **keywords), *args, use_reentrant=False)

    return call
