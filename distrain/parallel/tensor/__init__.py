"""Tensor and sequence parallelism of modules that know one device."""

from distrain.parallel.tensor.cutting import cut_tensors, require_plan

__all__ = ["cut_tensors", "require_plan"]
