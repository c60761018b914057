"""Layers 1 to 3: raw text -> documents -> token shards -> this rank's microbatches."""
