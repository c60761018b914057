"""Benchmarks of the data path: work per CPU-second, with peers, in one interleaved run."""
