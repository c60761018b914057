"""Remote shards under a loader: the same batches as locally, downloaded ahead of the reader."""

import itertools
import time

import numpy as np
import pytest

from distrain.config.loading import CacheConfig
from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.cache.settings import CacheSettings
from distrain.data.remote.publish import publish
from distrain.data.remote.shards import open_remote_split
from distrain.data.samples.ahead import coming_blocks
from distrain.data.samples.datasets import PackedDataset, PretrainDataset, gather
from distrain.data.samples.feed import DocumentStream, Feed
from distrain.data.samples.loader import Loader
from distrain.data.samples.order import Order
from distrain.data.samples.packing import PackedIndex, plan_best_fit
from distrain.data.samples.schedule import Schedule
from distrain.data.samples.source import SourceTokens
from distrain.data.shards.reader import open_split
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.distrain.data.remote.block_server import block_server

LENGTH, BATCH = 16, 8
CUTS = ["concat", "best_fit"]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    write_split(folder, "train", make_texts(120), block_bytes=512)
    return folder


@pytest.fixture(scope="module")
def published(local, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    publish(local, f"file://{folder}")
    return folder


def cut(tokens, kind):
    if kind == "concat":
        return PretrainDataset(tokens, LENGTH)
    plans = [plan_best_fit(shard.ends, LENGTH) for shard in tokens.shards]
    return PackedDataset(tokens, PackedIndex(plans), LENGTH)


def order_of(dataset):
    return Order(7, "web", len(dataset), block_samples=4, window_blocks=4)


def remote_stream(url, folder, kind="concat", **settings):
    cache = BlockCache(CacheSettings(folder=folder, **settings))
    split = open_remote_split(RemoteStore(url), "train", stage_kind="pretrain", cache=cache)
    dataset = cut(split, kind)
    source = SourceTokens(split, split.manifest.digest, cache=cache)
    return DocumentStream(dataset, order_of(dataset), source)


def local_stream(folder, kind="concat"):
    split = open_split(folder, "train", stage_kind="pretrain")
    dataset = cut(split, kind)
    return DocumentStream(dataset, order_of(dataset), SourceTokens.of_split(split))


def feed_of(**streams):
    weights = dict.fromkeys(streams, 1)
    return Feed(streams, Schedule.planned(BATCH, {0: weights}), 7)


def take(loader, count, start=0):
    batches = loader.batches(start)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return [
        (batch.digest, [microbatch.input_ids.tolist() for microbatch in batch.microbatches])
        for batch in taken
    ]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("kind", CUTS)
def test_the_batches_are_those_of_the_local_shards(local, published, tmp_path, kind, prefetch):
    remote = remote_stream(f"file://{published}", tmp_path, kind)
    ours = local_stream(local, kind)
    assert remote.fingerprint == ours.fingerprint
    read = take(Loader(feed_of(web=remote), micro_batch_size=3, prefetch=prefetch), 12, start=5)
    assert read == take(Loader(feed_of(web=ours), micro_batch_size=3, prefetch=0), 12, start=5)


@pytest.mark.parametrize("kind", CUTS)
def test_spans_are_where_the_inputs_of_a_sample_lie(local, kind):
    dataset = local_stream(local, kind).dataset
    for index in range(0, len(dataset), 7):
        chosen = np.array([index])
        tokens = [
            token
            for start, stop in dataset.spans(chosen)
            for token in dataset.tokens.tokens(start, stop - 1).tolist()
        ]
        assert gather(dataset, chosen).input_ids[0, : len(tokens)].tolist() == tokens


@pytest.mark.parametrize("kind", CUTS)
def test_all_that_a_batch_reads_was_listed_for_it(published, tmp_path, monkeypatch, kind):
    stream = remote_stream(f"file://{published}", tmp_path, kind)
    feed = feed_of(web=stream)
    read: set[str] = set()
    get = stream.cache.get

    def noted(block):
        read.add(block.key)
        return get(block)

    monkeypatch.setattr(stream.cache, "get", noted)
    for step in range(10):
        samples = np.arange(step * BATCH, (step + 1) * BATCH)
        listed = [block.key for block in coming_blocks(feed.plan, {0: stream}, [samples])]
        read.clear()
        feed.rows(samples)
        assert read
        assert read <= set(listed)
        assert len(listed) == len(set(listed)), "each block once a batch"


def test_blocks_come_before_the_reader_and_once(published, tmp_path):
    with block_server(published) as server:
        stream = remote_stream(server.url, tmp_path)
        feed = feed_of(web=stream)
        steps = len(stream.dataset) // BATCH
        samples = (np.arange(step * BATCH, (step + 1) * BATCH) for step in range(steps))
        with feed.fetch_ahead(samples):
            deadline = time.monotonic() + 20
            wanted = {(b.name, b.first_byte) for b in coming_blocks(
                feed.plan, {0: stream}, [np.arange(steps * BATCH)]
            )}  # fmt: skip
            while len(server.block_counts()) < len([1 for name, _ in wanted if ".bin" in name]):
                assert time.monotonic() < deadline, "nothing is downloaded without a reader"
                time.sleep(0.01)
            feed.rows(np.arange(steps * BATCH))
        assert set(server.block_counts().values()) == {1}


def test_a_feed_of_local_shards_starts_no_thread(local):
    feed = feed_of(web=local_stream(local))
    with feed.fetch_ahead(iter(())) as nothing:
        assert nothing is None


def test_listing_ends_where_no_remote_sample_is_left(local, published, tmp_path):
    remote = remote_stream(f"file://{published}", tmp_path)
    streams = {"old": remote, "web": local_stream(local)}
    weights = {0: {"old": 1, "web": 1}, 3: {"web": 1}}
    feed = Feed(streams, Schedule.planned(BATCH, weights), 7)
    samples = (np.arange(step * BATCH, (step + 1) * BATCH) for step in itertools.count())
    listed = list(coming_blocks(feed.plan, {feed.plan.names.index("old"): remote}, samples))
    assert listed
    local_only = Schedule.planned(BATCH, {0: {"web": 1}})
    assert list(coming_blocks(Feed(streams, local_only, 7).plan, {}, samples)) == []


def test_the_section_of_a_recipe_becomes_the_settings_of_a_process(tmp_path, monkeypatch):
    config = CacheConfig.model_validate(
        {"folder": "~/blocks", "limit_bytes": "2B", "threads": 3, "stall_deadline": "2m"}
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CacheSettings.of_config(config, 8) == CacheSettings(
        tmp_path / "blocks", 2_000_000_000, 3, 8, 30.0, 120.0
    )
    monkeypatch.setenv("DISTRAIN_CACHE_DIR", str(tmp_path / "named"))
    assert CacheSettings.of_config(CacheConfig(), 1) == CacheSettings(tmp_path / "named")
