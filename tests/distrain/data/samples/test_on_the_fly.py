import multiprocessing
import os
import signal
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.feed import Feed
from distrain.data.samples.loader import Loader
from distrain.data.samples.on_the_fly import OnTheFlyStream, range_order
from distrain.data.samples.order import Order
from distrain.data.samples.range_shards import MakeJob, Patience, RangeShards, is_made
from distrain.data.samples.schedule import Schedule
from distrain.data.shards.reader import ShardedTokens, TokenShard, open_split
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_tokenizer
from tests.distrain.data.made_ranges import MakeTexts

pytestmark = pytest.mark.data

LENGTH = 16
RANGES = 7


@pytest.fixture
def root(tmp_path):
    make_tokenizer(tmp_path)
    return tmp_path


def open_stream(root, *, packed=False, window=8, seed=1, **changes):
    make = MakeTexts(root, **changes)
    ranges = RangeShards(make, range_order(seed, "web", RANGES), patience=Patience(5, 20))
    order = Order(seed, "web", 1, block_samples=4, window_blocks=window // 4)
    return OnTheFlyStream(ranges, order, LENGTH, is_packed=packed, content="made")


def loader_of(stream, batch_size=12, **changes):
    feed = Feed({"web": stream}, Schedule.planned(batch_size, {0: {"web": 1}}), 1)
    return Loader(feed, micro_batch_size=4, **changes)


def digests(root, steps, *, packed=False, **changes):
    stream = open_stream(root, packed=packed)
    loader = loader_of(stream, **changes)
    found = [loader.batch_at(step).digest for step in steps]
    stream.close()
    return found


def stream_of_ranges(root, seed=1):
    """The tokens of all ranges in their keyed order, read as a prepared split is."""
    shards: list[TokenShard] = []
    for number in range_order(seed, "web", RANGES):
        make = MakeTexts(root)
        if not is_made(make, number):
            make(number)
        folder = make.folder(number).parent.parent
        shards += open_split(folder, "train", "web", stage_kind="pretrain").shards
    return ShardedTokens(shards, eos_id=0)


def test_the_first_epoch_holds_every_sample_of_the_ranges_once(root):
    stream = open_stream(root)
    tokens = stream_of_ranges(root)
    size = (tokens.num_tokens - 1) // LENGTH
    rows = loader_of(stream, size).feed.rows(np.arange(size))
    expected = tokens.tokens(0, size * LENGTH).reshape(size, LENGTH)
    assert sorted(rows.input_ids.tolist()) == sorted(expected.tolist())
    assert rows.input_ids.tolist() != expected.tolist()
    # Mixed within windows, not beyond.
    for start in range(0, size, 8):
        window = rows.input_ids[start : start + 8].tolist()
        assert sorted(window) == sorted(expected[start : start + 8].tolist())
    again = loader_of(stream, size).feed.rows(np.arange(size, 2 * size))
    assert sorted(again.input_ids.tolist()) == sorted(expected.tolist())
    stream.close()


@pytest.mark.parametrize("packed", [False, True])
def test_batches_do_not_depend_on_what_was_made_before_they_were_asked_for(root, packed):
    late = [digests(root, [step], packed=packed)[0] for step in (9, 3)]
    stream_of_ranges(root)
    assert late == digests(root, (9, 3), packed=packed)
    assert len(set(digests(root, range(10), packed=packed))) == 10


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dp_size", [2, 3, 4])
def test_ranks_together_read_the_batch_of_one(root, packed, dp_size):
    whole = digests(root, range(12), packed=packed)
    ranks = [
        digests(root, range(12), packed=packed, dp_rank=rank, dp_size=dp_size)
        for rank in range(dp_size)
    ]
    assert [sum(parts) % 2**32 for parts in zip(*ranks, strict=True)] == whole


def test_threads_that_look_ahead_change_no_batch(root):
    expected = digests(root, range(20))
    stream = open_stream(root)
    batches = loader_of(stream, prefetch=4, num_threads=3).batches()
    assert [next(batches).digest for _ in range(20)] == expected
    batches.close()
    stream.close()


def test_no_range_is_made_before_it_is_nearly_needed(root):
    stream = open_stream(root)
    loader_of(stream, 4).batch_at(0)
    stream.close()
    made = (root / "made.txt").read_text().split()
    assert 1 <= len(made) <= 1 + 1 + 2  # the first, perhaps the next for a window, two ahead
    assert made[0] == str(range_order(1, "web", RANGES)[0])


def test_packed_samples_hold_every_target_once(root):
    stream = open_stream(root, packed=True)
    loader = loader_of(stream)
    loader.batch_at(100)
    size = stream._known.num_samples
    rows = loader.feed.rows(np.arange(size))
    targets = np.sort(rows.target_ids[rows.target_ids != IGNORE_INDEX])
    expected = []
    for shard in stream_of_ranges(root).shards:
        bounds = [0, *shard.ends.tolist()]
        for start, stop in pairwise(bounds):
            expected += shard.tokens(start, stop)[1:].tolist()
    assert targets.tolist() == sorted(expected)
    stream.close()


def _read(root, rank, steps, results):
    results.put((rank, digests(root, steps, dp_rank=rank, dp_size=3)))


def test_processes_that_read_together_make_each_range_once(root):
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    ranks = [
        spawn.Process(target=_read, args=(root, rank, range(30), results)) for rank in range(3)
    ]
    for rank in ranks:
        rank.start()
    parts = dict(results.get(timeout=60) for _ in ranks)
    for rank in ranks:
        rank.join()
    made = (root / "made.txt").read_text().split()
    assert sorted(made) == [str(number) for number in range(RANGES)]
    expected = digests(root, range(30))
    assert [sum(part) % 2**32 for part in zip(*parts.values(), strict=True)] == expected


def test_a_maker_that_is_killed_leaves_nothing_behind_and_another_goes_on(root):
    expected = digests(root, range(5))
    for file in sorted(root.glob("ranges/**/*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    make, number = MakeTexts(root, delay_s=60), range_order(1, "web", RANGES)[0]
    spawn = multiprocessing.get_context("spawn")
    slow = spawn.Process(target=MakeJob(make, number).run)
    slow.start()
    while not make.folder(number).with_name(".web.unfinished").exists():
        time.sleep(0.05)
    assert slow.pid is not None
    os.kill(slow.pid, signal.SIGKILL)
    slow.join()
    assert digests(root, range(5)) == expected


def test_a_range_that_cannot_be_made_is_named_where_it_is_needed(root):
    order = range_order(1, "web", RANGES)
    stream = open_stream(root, fails=order[4])
    loader = loader_of(stream, 4)
    loader.batch_at(0)
    with pytest.raises(DataError, match=f"range {order[4]} of source web"):
        loader.batch_at(500)
    stream.close()


def test_a_range_that_fails_ahead_stops_nobody_who_does_not_need_it(root):
    order = range_order(1, "web", RANGES)
    make = MakeTexts(root, fails=order[1])
    ranges = RangeShards(make, order, patience=Patience(5, 20))
    ranges.wait_for(0)
    while order[1] not in ranges._errors:
        time.sleep(0.01)
    assert ranges.wait_for(2) == make.folder(order[2])
    with pytest.raises(DataError, match=f"range {order[1]} of source web"):
        ranges.wait_for(1)
    ranges.close()


def test_closing_ends_a_wait(root):
    ranges = RangeShards(
        MakeTexts(root, delay_s=60), range_order(1, "web", RANGES), patience=Patience(90, 90)
    )
    threading.Timer(1.0, ranges.close).start()
    with pytest.raises(RuntimeError, match="closed while range"):
        ranges.wait_for(0)


def test_tokens_are_counted_in_all_ranges_there_are_whoever_asked_for_them(root):
    stream = open_stream(root)
    stream.vocab_size = Tokenizer.load(root / "tokenizer.json").vocab_size
    assert stream.token_counts().sum() == 0
    tokens = stream_of_ranges(root)
    assert stream.token_counts().sum() == tokens.num_tokens
    stream.close()


def test_a_wait_beyond_the_deadline_names_the_range(root):
    ranges = RangeShards(
        MakeTexts(root, delay_s=30), range_order(1, "web", RANGES), patience=Patience(0.1, 0.5)
    )
    with pytest.raises(DataError, match=r"range \d of source web: found no tokens after"):
        ranges.wait_for(0)
    ranges.close()


def test_a_source_without_a_sample_is_refused(root):
    ranges = RangeShards(MakeTexts(root), [3], patience=Patience(5, 20))
    stream = OnTheFlyStream(
        ranges, Order(1, "web", 1, 4, 2), LENGTH, is_packed=False, content="made"
    )
    with pytest.raises(DataError, match="less than one sample"):
        loader_of(stream).batch_at(0)
    stream.close()
