"""Layers over several ranks: each holds some, and hidden states travel (pipeline parallelism)."""
