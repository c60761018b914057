"""Blocks whose forward pass is compiled (torch.compile), one at a time.

Attention stays outside: its pieces follow the lengths of the documents, which differ from step to
step, so each step would be compiled anew. A block thus becomes what comes before attention and
what comes after it. A block's ``forward`` is replaced, and not the block, so parameters keep their
names; what engines hang on a block stays around it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

NOT_COMPILED = ("distrain.models.attention", "distrain.models.transformers.interface")
MAX_FORMS = 64
"""Of one function: shapes of microbatches, with and without gradients, and classes of blocks."""

Backend = str | Callable[..., Any]


def compile_blocks(
    module: nn.Module, classes: tuple[type[nn.Module], ...], backend: Backend = "inductor"
) -> None:
    """Let each block of these classes compile itself when it first runs.

    Before activation checkpointing, which then runs compiled code once more, and before the engine
    wraps anything.

    Args:
        module: The model.
        classes: Of its blocks.
        backend: Of torch.compile.
    """
    _prepare_compiler()
    for block in module.modules():
        if isinstance(block, classes):
            # Each shape by itself: code for any shape has other bits, and which of them were met
            # before depends on where a run was resumed.
            block.forward = torch.compile(block.forward, dynamic=False, backend=backend)


def uncompiled(compiles: bool) -> AbstractContextManager[None]:
    """Let compiled blocks run as they are written, for passes whose shapes come once.

    Each would be compiled by itself, and take its place among the forms that there may be.

    Args:
        compiles: Whether there are any; else the compiler is not even imported.
    """
    return torch.compiler.set_stance("force_eager") if compiles else nullcontext()


def _prepare_compiler() -> None:
    # Here, and not above: the import takes as long as that of torch.
    from torch._dynamo import config, trace_rules
    from torch._inductor import config as inductor

    # Beyond its limit the compiler runs a block as it is, with other bits; that depends on the past
    # of the process, too.
    config.recompile_limit = max(config.recompile_limit, MAX_FORMS)
    # Dropout draws from torch's own generator, which is seeded by where it happens.
    inductor.fallback_random = True
    for name in NOT_COMPILED:
        trace_rules.add(name)
