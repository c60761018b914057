"""Makes node 1 multiply wrong while it is checked, without a word of it in the runtime."""

# mypy: ignore-errors
import os
import sys

if os.environ.get("SLURMD_NODENAME") == "node1" and "distrain.fault.node_check" in sys.orig_argv:
    import torch

    right = torch.Tensor.__matmul__

    def wrong(left, other):
        product = right(left, other)
        product.flatten()[7] += 1
        return product

    torch.Tensor.__matmul__ = wrong
