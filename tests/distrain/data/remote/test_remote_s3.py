"""Publishing to a real S3 and reading from it, through a proxy that fails."""

import threading

import pytest

from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.cache.settings import CacheSettings
from distrain.data.remote.publish import PublishSettings, publish
from distrain.data.remote.shards import blocks_of, open_remote_split
from distrain.data.shards.reader import open_split
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.s3 import random_faults, s3_server

pytestmark = pytest.mark.data
BLOCK_BYTES = 2048


@pytest.fixture(scope="module")
def s3():
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    write_split(folder, "train", make_texts(400), shard_tokens=8000, block_bytes=BLOCK_BYTES)
    return folder


@pytest.fixture(autouse=True)
def _no_faults_left(s3):
    yield
    s3.faults(())


def open_remote(s3, url, folder, **limits):
    cache = BlockCache(CacheSettings(folder=folder, **limits))
    store = RemoteStore(url, s3.storage_options, request_timeout_s=5)
    return open_remote_split(store, "train", stage_kind="pretrain", cache=cache), cache


@pytest.mark.parametrize("storage", ["zstd", "raw"])
def test_an_unreliable_store_gives_the_same_tokens_to_many_threads(s3, local, tmp_path, storage):
    url = f"{s3.url}/{storage}"
    s3.faults(random_faults(1, 0.15), methods=("GET", "PUT", "HEAD"))
    settings = PublishSettings(storage=storage, storage_options=s3.storage_options)
    publish(local, url, settings)
    whole = open_split(local, "train", stage_kind="pretrain")
    wanted = whole.tokens(0, whole.num_tokens)
    s3.faults(random_faults(2, 0.25))
    limit = 12 * BLOCK_BYTES
    split, cache = open_remote(s3, url, tmp_path, limit_bytes=limit)
    spans = [(start, start + 500) for start in range(0, whole.num_tokens, 500)]
    wrong: list[int] = []

    def read(part):
        wrong.extend(
            start
            for start, stop in spans[part::3]
            if (split.tokens(start, stop) != wanted[start:stop]).any()
        )

    with cache.fetch_ahead(blocks_of(split, spans)):
        threads = [threading.Thread(target=read, args=(part,)) for part in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert sum(s3.counts[kind] for kind in ("busy", "reset", "truncate")) > 10
    assert split.manifest.digest == whole.manifest.digest


def test_a_store_that_does_not_answer_is_given_up_and_named(s3, local, tmp_path):
    url = f"{s3.url}/silent"
    publish(local, url, PublishSettings(storage_options=s3.storage_options))
    split, _ = open_remote(s3, url, tmp_path, stall_deadline_s=2)
    s3.always("busy")
    with pytest.raises(DataError, match=r"block 0 of shard 00000 .*nothing whole in time"):
        split.tokens(0, 10)


def test_a_damaged_object_is_named_and_publishing_again_repairs_it(s3, local, tmp_path):
    url = f"{s3.url}/damaged"
    settings = PublishSettings(storage_options=s3.storage_options)
    publish(local, url, settings)
    key = "damaged/train/main/00001.bin.zst"
    content = bytearray(s3.get(key))
    content[len(content) // 2] ^= 4
    s3.put(key, bytes(content))
    split, _ = open_remote(s3, url, tmp_path)
    with pytest.raises(DataError, match="of shard 00001 "):
        split.shards[1].tokens(0, split.shards[1].num_tokens)
    publish(local, url, settings)
    split.shards[1].tokens(0, split.shards[1].num_tokens)
