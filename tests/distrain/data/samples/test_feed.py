import json
from dataclasses import replace

import numpy as np
import pytest

from distrain.data.samples.datasets import PackedDataset, PretrainDataset
from distrain.data.samples.feed import Feed, OrderedStream
from distrain.data.samples.order import Order
from distrain.data.samples.packing import PACK_VERSION, PackedIndex, plan_best_fit
from distrain.data.samples.schedule import Schedule
from distrain.data.shards.reader import open_split
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_texts, write_split

LENGTH = 32


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    write_split(folder, "train", make_texts(60))
    return open_split(folder, "train", stage_kind="pretrain")


def packed(split, window_documents=1 << 16):
    plans = [plan_best_fit(shard.ends, LENGTH, window_documents) for shard in split.shards]
    return PackedDataset(split, PackedIndex(plans), LENGTH)


def stream_of(dataset, content="content", **changes):
    order = replace(Order(7, "text", len(dataset)), **changes)
    return OrderedStream(dataset, order, content)


def feed_of(batch_size=8, weight=1.0, **streams):
    schedule = Schedule.planned(batch_size, {0: dict.fromkeys(streams, weight)})
    return Feed(streams, schedule, 7)


def test_a_fingerprint_is_that_of_what_makes_the_samples(split):
    plain, best_fit = PretrainDataset(split, LENGTH), packed(split)
    assert stream_of(plain).fingerprint == stream_of(PretrainDataset(split, LENGTH)).fingerprint
    assert stream_of(best_fit).fingerprint == stream_of(packed(split)).fingerprint
    others = [
        stream_of(plain),
        stream_of(best_fit),
        stream_of(packed(split, 8)),
        stream_of(PretrainDataset(split, LENGTH // 2)),
        stream_of(plain, content="other shards"),
        stream_of(plain, seed=8),
        stream_of(plain, source="web"),
        stream_of(plain, block_samples=4),
        stream_of(plain, block_samples=4, window_blocks=8),
    ]
    assert len({stream.fingerprint for stream in others}) == len(others)


def test_a_window_that_is_not_used_is_in_no_fingerprint(split):
    plain = PretrainDataset(split, LENGTH)
    assert stream_of(plain, window_blocks=8).fingerprint == stream_of(plain).fingerprint


def test_another_version_of_packing_makes_other_samples(split, monkeypatch):
    before = stream_of(packed(split)).fingerprint
    monkeypatch.setattr("distrain.data.samples.datasets.PACK_VERSION", PACK_VERSION + 1)
    assert stream_of(packed(split)).fingerprint != before


def test_a_feed_goes_on_with_other_weights_where_the_other_stopped(split):
    def streams():
        return {name: stream_of(PretrainDataset(split, LENGTH), source=name) for name in "ab"}

    before = feed_of(**streams())
    state = json.loads(json.dumps(before.state()))
    after = Feed(streams(), Schedule.planned(4, {0: {"b": 1}}), 7)
    after.restore(state, 5)
    assert after.schedule.samples_of(4) == (32, 8)
    assert after.schedule.samples_of(5) == (40, 4)
    old, new = before.rows(np.arange(40)), after.rows(np.arange(40))
    assert np.array_equal(old.input_ids, new.input_ids)
    sources, numbers = after.plan.draw(np.arange(40, 60))
    assert {after.plan.names[number] for number in sources} == {"b"}
    assert numbers.tolist() == [before.plan.consumed(40)["b"] + i for i in range(20)]


def test_a_source_that_changed_or_is_gone_is_refused(split):
    dataset = PretrainDataset(split, LENGTH)
    state = feed_of(a=stream_of(dataset), b=stream_of(dataset)).state()
    changed = feed_of(a=stream_of(dataset), b=stream_of(packed(split)))
    with pytest.raises(DataError, match=r"source 'b': found other shards, order, packing"):
        changed.restore(state, 5)
    with pytest.raises(DataError, match=r"source 'b': found no such source"):
        feed_of(a=stream_of(dataset)).restore(state, 5)
