import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.cache.settings import CacheSettings
from distrain.data.remote.publish import PublishSettings, publish
from distrain.data.remote.shards import blocks_of, open_remote_split
from distrain.data.shards.reader import open_split
from distrain.errors import DataError, PreflightError
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.distrain.data.remote.block_server import block_server

BLOCK_BYTES = 512
READER = """
import sys
from pathlib import Path
from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.cache.settings import CacheSettings
from distrain.data.remote.shards import open_remote_split

url, folder = sys.argv[1:]
cache = BlockCache(CacheSettings(folder=Path(folder)))
split = open_remote_split(RemoteStore(url), "train", stage_kind="pretrain", cache=cache)
print("open", flush=True)
sys.stdin.readline()
print(int(split.tokens(0, split.num_tokens).sum()), flush=True)
"""


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr("distrain.data.remote.cache.fetching.FIRST_DELAY_S", 0.001)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    for split in ("train", "test"):
        write_split(folder, split, make_texts(60), shard_tokens=1500, block_bytes=BLOCK_BYTES)
    return folder


@pytest.fixture(scope="module")
def published(local, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    publish(local, f"file://{folder}")
    return folder


@pytest.fixture
def served(published):
    with block_server(published) as server:
        yield server


def open_remote(url, folder, *, look_at="train", **limits):
    cache = BlockCache(CacheSettings(folder=folder, **limits))
    return open_remote_split(RemoteStore(url), look_at, stage_kind="pretrain", cache=cache), cache


def blocks_below(folder):
    return [path for path in (folder / "blocks").rglob("*") if path.is_file()]


def parts_below(folder):
    return list((folder / "parts").iterdir())


@pytest.mark.parametrize("storage", ["raw", "zstd"])
def test_remote_reading_equals_local_reading(local, tmp_path, storage):
    url = f"memory://{uuid.uuid4()}"
    publish(local, url, PublishSettings(storage=storage))
    whole = open_split(local, "train", stage_kind="pretrain")
    remote, _ = open_remote(url, tmp_path)
    assert (remote.num_tokens, remote.num_documents) == (whole.num_tokens, whole.num_documents)
    assert remote.manifest.digest == whole.manifest.digest
    assert (remote.token_counts == whole.token_counts).all()
    assert len(remote.shards) > 2
    for mine, theirs in zip(remote.shards, whole.shards, strict=True):
        assert mine.ends.tolist() == theirs.ends.tolist()
    position = st.integers(0, whole.num_tokens + 10)

    @settings(deadline=None, max_examples=60)
    @given(position, position)
    def check(start, stop):
        assert remote.tokens(start, stop).tolist() == whole.tokens(start, stop).tolist()
        for number, first, end in remote.pieces(start, stop):
            part = remote.shards[number].tokens(first, end)
            assert part.dtype == np.dtype("<u2")
            assert (part == whole.shards[number].tokens(first, end)).all()

    check()
    document = whole.num_documents - 1
    assert remote.document(document).tolist() == whole.document(document).tolist()


def test_the_guard_of_the_test_split_holds_at_a_url_too(published, tmp_path):
    with pytest.raises(PreflightError, match="opening the test split"):
        open_remote(f"file://{published}", tmp_path, look_at="test")
    with pytest.raises(ValueError, match="expected one of train"):
        open_remote(f"file://{published}", tmp_path, look_at="../test")
    moved = RemoteStore(f"file://{published}/test/..")
    cache = BlockCache(CacheSettings(folder=tmp_path))
    (published / "train" / "other").symlink_to(published / "test" / "main")
    with pytest.raises(DataError, match="the manifest of split 'test'"):
        open_remote_split(moved, "train", "other", stage_kind="pretrain", cache=cache)


def test_many_threads_download_each_block_once(served, local, tmp_path):
    served.delay_s = 0.002
    whole = open_split(local, "train", stage_kind="pretrain")
    wanted = whole.tokens(0, whole.num_tokens)
    split, _ = open_remote(served.url, tmp_path)
    failures: list[int] = []

    def read(seed):
        starts = np.random.default_rng(seed).integers(0, whole.num_tokens, 60)
        failures.extend(
            start
            for start in starts
            if (split.tokens(start, start + 300) != wanted[start : start + 300]).any()
        )

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    counts = served.block_counts()
    assert len(counts) > 12
    assert set(counts.values()) == {1}
    assert parts_below(tmp_path) == []


def start_reader(served, folder):
    return subprocess.Popen(
        [sys.executable, "-c", READER, served.url, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_of_a_node_download_each_block_once(served, local, tmp_path):
    served.delay_s = 0.005
    readers = [start_reader(served, tmp_path) for _ in range(3)]
    for reader in readers:
        assert reader.stdout.readline() == "open\n"
    for reader in readers:
        reader.stdin.write("go\n")
        reader.stdin.flush()
    whole = open_split(local, "train", stage_kind="pretrain")
    wanted = int(whole.tokens(0, whole.num_tokens).sum())
    assert [int(reader.communicate()[0]) for reader in readers] == [wanted] * 3
    counts = served.block_counts()
    assert len(counts) > 12
    assert set(counts.values()) == {1}


def test_a_killed_downloader_leaves_nothing_and_holds_up_nobody(served, local, tmp_path):
    reader = start_reader(served, tmp_path)
    assert reader.stdout.readline() == "open\n"
    served.fault = lambda path, _: "hang" if ".bin" in path else None
    reader.stdin.write("go\n")
    reader.stdin.flush()
    while not parts_below(tmp_path):
        time.sleep(0.01)
    # Half a block, as a process leaves it that is killed while it writes.
    part = parts_below(tmp_path)[0]
    part.write_bytes(b"half")
    split, cache = open_remote(served.url, tmp_path)
    cache.directory.reserve(4)
    assert parts_below(tmp_path) == [part], "its downloader lives"
    os.kill(reader.pid, signal.SIGKILL)
    reader.communicate()
    served.fault = lambda path, _: None
    _, cache = open_remote(served.url, tmp_path)
    assert parts_below(tmp_path) == []
    whole = open_split(local, "train", stage_kind="pretrain")
    assert split.tokens(0, 5000).tolist() == whole.tokens(0, 5000).tolist()
    assert parts_below(tmp_path) == []
    assert cache.directory.usage_bytes() == sum(
        path.stat().st_size for path in blocks_below(tmp_path)
    )


def test_the_limit_holds_and_what_is_mapped_survives_eviction(served, local, tmp_path):
    limit = 8 * BLOCK_BYTES
    split, cache = open_remote(served.url, tmp_path, limit_bytes=limit)
    whole = open_split(local, "train", stage_kind="pretrain")
    held = split.shards[0].tokens(0, 100)
    for start in range(0, whole.num_tokens, 97):
        assert (split.tokens(start, start + 97) == whole.tokens(start, start + 97)).all()
        size = sum(path.stat().st_size for path in blocks_below(tmp_path))
        assert cache.directory.usage_bytes() == size <= limit
    first = split.shards[0].blocks(0, 1)[0]
    assert not cache.directory.path(first.key).exists()
    assert (held == whole.tokens(0, 100)).all()


def test_what_was_read_longest_ago_goes_first(served, tmp_path):
    split, _ = open_remote(served.url, tmp_path)
    blocks = split.shards[0].blocks(0, 10**6)[:8]
    folder = tmp_path / "small"
    cache = BlockCache(CacheSettings(folder=folder, limit_bytes=4 * BLOCK_BYTES))
    for block in blocks[:4]:
        cache.get(block)
    again = BlockCache(cache.settings)
    again.get(blocks[0])
    cache.get(blocks[4])
    there = {path.name for path in blocks_below(folder)}
    assert {blocks[0].key, blocks[4].key} <= there
    assert blocks[1].key not in there


@pytest.mark.parametrize("harm", ["flip", "cut", "longer", "empty"])
def test_a_block_damaged_in_the_cache_is_downloaded_again(served, local, tmp_path, harm, caplog):
    split, _ = open_remote(served.url, tmp_path)
    before = split.tokens(0, split.num_tokens)
    for path in blocks_below(tmp_path):
        content = path.read_bytes()
        path.write_bytes(
            {
                "flip": content[:-1] + bytes([content[-1] ^ 1]),
                "cut": content[:-1],
                "longer": content + b"\0",
                "empty": b"",
            }[harm]
        )
    fresh, _ = open_remote(served.url, tmp_path)
    assert (fresh.tokens(0, split.num_tokens) == before).all()
    assert "damaged in the cache" in caplog.text
    assert set(served.block_counts().values()) == {2}


def test_faults_on_the_way_are_overcome(served, local, tmp_path):
    faults = {0: "busy", 1: "cut", 2: "flip", 5: "busy", 9: "cut", 10: "flip"}
    served.fault = lambda path, number: faults.get(number)
    split, _ = open_remote(served.url, tmp_path)
    whole = open_split(local, "train", stage_kind="pretrain")
    assert (split.tokens(0, whole.num_tokens) == whole.tokens(0, whole.num_tokens)).all()


def test_a_block_damaged_at_its_source_is_named(served, tmp_path):
    split, _ = open_remote(served.url, tmp_path)
    served.fault = lambda path, _: "flip" if path.endswith("00001.bin.zst") else None
    split.shards[0].tokens(0, 1000)
    with pytest.raises(DataError, match=r"block 0 of shard 00001 .*00001\.bin\.zst.*3 times"):
        split.shards[1].tokens(0, 10)
    asked = [count for (path, _), count in served.counts.items() if "00001.bin" in path]
    assert asked == [3]
    assert parts_below(tmp_path) == []


def test_a_missing_object_is_named_at_once(published, tmp_path):
    split, _ = open_remote(f"file://{published}", tmp_path)
    object_ = published / "train" / "main" / "00000.bin.zst"
    object_.rename(published / "away")
    started = time.monotonic()
    with pytest.raises(DataError, match=r"block 0 of shard 00000 .*no such object"):
        split.tokens(0, 10)
    assert time.monotonic() - started < 1
    (published / "away").rename(object_)
    assert len(split.tokens(0, 10)) == 10, "a failure is not remembered"
    with pytest.raises(DataError, match=r"manifest.json .*no such object"):
        open_remote(f"file://{published}/nowhere", tmp_path)


def test_a_stall_is_logged_and_ends_in_an_error_that_names_the_block(served, tmp_path, caplog):
    split, _ = open_remote(served.url, tmp_path, stall_warning_s=0.1, stall_deadline_s=0.5)
    served.fault = lambda path, _: "hang"
    started = time.monotonic()
    with pytest.raises(
        DataError, match=r"block 0 of shard 00000 .*nothing whole in time"
    ) as caught:
        split.tokens(0, 10)
    assert 0.4 < time.monotonic() - started < 1.5
    assert "waiting for block 0 of shard 00000" in caplog.text
    assert served.url in caplog.text
    assert "data.cache.stall_deadline" in caught.value.remedy


def test_look_ahead_stays_within_its_budget_and_spares_the_reader_the_wait(served, tmp_path):
    split, cache = open_remote(served.url, tmp_path, threads=3)
    spans = [(start, start + 50) for start in range(0, split.num_tokens, 50)]
    num_blocks = len({block.key for block in blocks_of(split, spans)})
    budget = 6 * BLOCK_BYTES
    with cache.fetch_ahead(blocks_of(split, spans), budget_bytes=budget) as ahead:
        wait_until(lambda: len(served.block_counts()) == 6)
        time.sleep(0.05)
        assert len(served.block_counts()) == 6
        for start, stop in spans:
            for block in blocks_of(split, [(start, stop)]):
                wait_until(cache.directory.path(block.key).exists)
            split.tokens(start, stop)
            assert ahead.listed_bytes <= budget
    counts = served.block_counts()
    assert (len(counts), set(counts.values())) == (num_blocks, {1})


def test_look_ahead_over_an_endless_list_of_few_blocks_rests(served, tmp_path):
    split, cache = open_remote(served.url, tmp_path)
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            for block in split.shards[0].blocks(0, 1000):
                drawn += 1
                yield block

    with cache.fetch_ahead(endless()):
        wait_until(lambda: len(served.block_counts()) == len(split.shards[0].blocks(0, 1000)))
        time.sleep(0.05)
        before = drawn
        time.sleep(0.05)
        assert drawn == before
        split.shards[0].tokens(0, 1)
        wait_until(lambda: drawn > before)


def test_look_ahead_leaves_a_failure_to_who_reads_the_block(served, tmp_path, caplog):
    split, cache = open_remote(served.url, tmp_path)
    served.fault = lambda path, _: "flip" if path.endswith("00000.bin.zst") else None
    with cache.fetch_ahead(blocks_of(split, [(0, split.num_tokens)])):
        wait_until(lambda: "block 0 of shard 00000" in caplog.text)
        last = split.shards[-1]
        assert len(last.tokens(0, 10)) == 10
        with pytest.raises(DataError, match="block 0 of shard 00000"):
            split.tokens(0, 10)


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a cache folder that cannot be used") as caught:
        BlockCache(CacheSettings(folder=tmp_path / "file" / "cache"))
    assert "DISTRAIN_CACHE_DIR" in caught.value.remedy


def wait_until(is_met, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
