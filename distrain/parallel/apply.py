"""Lay a model over the ranks: the one place that states in which order.

1. build: single-device code, on the meta device where the engine cuts it before it has memory;
   its blocks are compiled if they are to be (``compilation``), then told whether to make their
   activations again (``recomputation``);
2. precision: the type of the master weights; bf16 is what the forward pass makes of them;
3. cut: along the axes of the layout that cut the model itself (``cuts``);
4. wrap: FSDP2 block by block, then the root; DDP the whole; DeepSpeed after 5 and 6, ZeRO-3 one
   parameter at a time;
5. values: the same global ones under every engine;
6. optimizer: over the parameters as they then are.
"""

import torch.distributed as dist

from distrain.parallel.engine import Engine
from distrain.parallel.engines import engine_factory
from distrain.parallel.model_spec import ModelSpec
from distrain.parallel.ranks import Ranks

__all__ = ["ModelSpec", "build_engine"]


def build_engine(ranks: Ranks, spec: ModelSpec) -> Engine:
    """Make the engine that the layout of ``ranks`` names. Collective.

    Raises:
        RecipeError: The engine cannot do what the model or the layout needs.
    """
    strategy = ranks.layout.strategy
    if strategy != "single" and not dist.is_initialized():
        # One process, started without torchrun, under an engine that speaks to a group.
        backend = "nccl" if spec.device.type == "cuda" else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined]  # it is there, unannounced
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    has_stages = ranks.layout.size("pipeline") > 1
    return engine_factory("pipeline" if has_stages else strategy)(ranks, spec)
