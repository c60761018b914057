"""Many processes on one small cache, some of them killed: the others read what was written."""

import random
import subprocess
import sys
import time

import pytest

from distrain.data.remote.cache.directory import CacheDirectory
from distrain.data.remote.publish import publish
from distrain.data.shards.reader import open_split
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.distrain.data.remote.block_server import block_server

pytestmark = pytest.mark.data
BLOCK_BYTES = 1024
READER = """
import sys, threading
from pathlib import Path
import numpy as np
from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.cache.settings import CacheSettings
from distrain.data.remote.shards import blocks_of, open_remote_split
from distrain.data.shards.reader import open_split

url, folder, local, limit, seed = sys.argv[1:]
cache = BlockCache(CacheSettings(folder=Path(folder), limit_bytes=int(limit), share=4))
split = open_remote_split(RemoteStore(url), "train", stage_kind="pretrain", cache=cache)
whole = open_split(Path(local), "train", stage_kind="pretrain")
wanted = whole.tokens(0, whole.num_tokens)
wrong = []

def read(seed):
    starts = np.random.default_rng(seed).integers(0, len(wanted), 400).tolist()
    spans = [(start, start + 700) for start in starts]
    with cache.fetch_ahead(blocks_of(split, spans)):
        for start, stop in spans:
            if (split.tokens(start, stop) != wanted[start:stop]).any():
                wrong.append(start)

threads = [threading.Thread(target=read, args=(int(seed) * 10 + part,)) for part in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(wrong), flush=True)
"""


def test_processes_that_are_killed_do_not_disturb_the_others(tmp_path):
    local, there, folder = tmp_path / "local", tmp_path / "there", tmp_path / "cache"
    write_split(local, "train", make_texts(500), shard_tokens=8000, block_bytes=BLOCK_BYTES)
    publish(local, f"file://{there}")
    limit = 24 * BLOCK_BYTES
    chosen = random.Random(0)
    with block_server(there) as server:
        server.fault = lambda path, number: (
            chosen.choice(["busy", "cut", "flip"]) if chosen.random() < 0.02 else None
        )
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READER, server.url, folder, local, str(limit), str(seed)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(6)
        ]
        for victim in readers[:3]:
            time.sleep(chosen.uniform(1.0, 1.6))
            victim.kill()
        outputs = [reader.communicate(timeout=60)[0] for reader in readers]
    assert [reader.returncode for reader in readers[3:]] == [0, 0, 0]
    assert -9 in [reader.returncode for reader in readers[:3]]
    assert outputs[3:] == ["0\n"] * 3
    directory = CacheDirectory(folder, limit)
    assert list((folder / "parts").iterdir()) == []
    directory.reserve(limit)  # looks through the folder and counts anew
    stored = sum(path.stat().st_size for path in (folder / "blocks").rglob("*") if path.is_file())
    assert directory.usage_bytes() == stored <= limit
    whole = open_split(local, "train", stage_kind="pretrain")
    assert whole.num_tokens > 3 * limit / 2, "the cache is smaller than the data"
