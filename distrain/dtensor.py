"""Whether a tensor is a DTensor, asked without importing that class, which takes 0.4 s."""

import sys
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_dtensor(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether a tensor is a DTensor; where nobody has imported the class, none is."""
    # Another thread may be about to import the module: it is there then, and the class is not.
    known = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return known is not None and isinstance(tensor, known)
