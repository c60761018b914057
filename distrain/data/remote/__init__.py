"""Shards in an object store: publishing them, and reading them through a cache of the node."""
