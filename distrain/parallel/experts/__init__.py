"""Expert parallelism: whole experts on each rank, and tokens that travel to them and back."""

from distrain.parallel.experts.cutting import cut_experts
from distrain.parallel.experts.sharding import shard_experts

__all__ = ["cut_experts", "shard_experts"]
