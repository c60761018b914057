"""Tensor and sequence parallelism of modules that know one device."""
