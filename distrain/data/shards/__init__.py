"""Token shards on disk: their files, manifest and digests; writing, reading, verifying."""
