from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.datasets import PackedDataset, PretrainDataset
from distrain.data.samples.feed import DocumentStream, Feed
from distrain.data.samples.on_the_fly import GrowingOrder, OnTheFlyStream, range_order
from distrain.data.samples.order import Order
from distrain.data.samples.packing import PackedIndex, plan_best_fit
from distrain.data.samples.range_shards import Patience, RangeShards
from distrain.data.samples.schedule import SamplePlan, Schedule
from distrain.data.samples.seen import Ledger, SeenSource, byte_ranges
from distrain.data.samples.source import SourceTokens
from distrain.data.shards.reader import open_split
from tests.distrain.data.made_corpus import make_texts, make_tokenizer, write_split
from tests.distrain.data.made_ranges import MakeTexts

LENGTH = 24
TEXTS = {"code": make_texts(25, seed=1), "web": [*make_texts(12, seed=2), "", "é ü 漢字 🙂 " * 40]}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    for name, texts in TEXTS.items():
        write_split(folder, "train", texts, source=name, shard_tokens=400)
    return {name: open_split(folder, "train", name, stage_kind="pretrain") for name in TEXTS}


def dataset_of(split, packing):
    if packing == "concat":
        return PretrainDataset(split, LENGTH)
    plans = [plan_best_fit(shard.ends, LENGTH, 4) for shard in split.shards]
    return PackedDataset(split, PackedIndex(plans), LENGTH)


def read_by(splits, packing, schedule, block_samples=0):
    """A run over the splits, from both sides: what makes its rows, and what accounts for them."""
    streams = {}
    for name, split in splits.items():
        dataset = dataset_of(split, packing)
        order = Order(3, name, len(dataset), block_samples, 2)
        streams[name] = DocumentStream(dataset, order, SourceTokens(split, ""))
    return account(streams, schedule)


def account(streams, schedule, steps=1000):
    """Open the ledger of a run that makes so many steps."""
    plan = SamplePlan(3, schedule)
    first, size = schedule.samples_of(steps - 1)
    read = plan.consumed(first + size)
    sources = {name: SeenSource.of(streams[name], count) for name, count in read.items() if count}
    return Feed(streams, schedule, 3), Ledger(plan, sources)


def lives():
    """Runs that were resumed with other settings: [(steps, batch size, weights)]."""
    weight = st.integers(0, 5)
    weights = st.fixed_dictionaries({"code": weight, "web": weight}).filter(
        lambda given: any(given.values())
    )
    return st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 16), weights), min_size=1, max_size=3
    )


def lived(life):
    steps, batch_size, weights = life[0]
    schedule = Schedule.planned(batch_size, {0: weights})
    for more, batch_size, weights in life[1:]:
        schedule = schedule.continued(steps, Schedule.planned(batch_size, {0: weights}))
        steps += more
    return schedule, steps


def check(splits, packing, life, block_samples=0):
    """Compare what is listed with the rows, and one direction with the other."""
    schedule, steps = lived(life)
    feed, ledger = read_by(splits, packing, schedule, block_samples)
    check_ledger(feed, ledger, steps, packing)


def check_ledger(feed, ledger, steps, packing):
    listed = []
    for step in range(steps):
        parts = ledger.parts_of_step(step)
        first, size = feed.schedule.samples_of(step)
        check_rows(feed.rows(np.arange(first, first + size)), parts, first, ledger)
        listed += parts
    by_document = defaultdict(list)
    for part in listed:
        by_document[part.source, part.document].append(part)
    for name, source in ledger.sources.items():
        for document in range(source.tokens.num_documents):
            expected = by_document[name, document]
            assert ledger.parts_of_document(name, document, steps) == expected
    check_epochs(ledger, listed, steps, packing)


def check_rows(rows, parts, first, ledger):
    inputs: dict[int, list[int]] = defaultdict(list)
    targets: dict[int, list[int]] = defaultdict(list)
    for part in parts:
        tokens = ledger.sources[part.source].tokens
        ids = tokens.document(part.document)[part.first : part.stop].tolist()
        assert len(ids) == part.stop - part.first > 1
        inputs[part.sample - first] += ids[:-1]
        targets[part.sample - first] += ids[1:]
    for row, (of_row, wanted) in enumerate(zip(rows.input_ids, rows.target_ids, strict=True)):
        is_target = wanted != IGNORE_INDEX
        assert wanted[is_target].tolist() == targets[row]
        assert of_row[is_target].tolist() == inputs[row]


def check_epochs(ledger, listed, steps, packing):
    """Every target of an epoch that has ended was trained on once, and none twice in any."""
    counts: dict[tuple[str, int], Counter[tuple[int, int]]] = defaultdict(Counter)
    for part in listed:
        places = [(part.document, place) for place in range(part.first + 1, part.stop)]
        counts[part.source, part.epoch].update(places)
    for (name, epoch), count in counts.items():
        assert set(count.values()) == {1}
        source = ledger.sources[name]
        if ledger.plan.consumed_by_steps(steps)[name] >= (epoch + 1) * source.order.num_samples:
            assert len(count) == num_targets(source, packing)


def num_targets(source, packing):
    tokens = source.tokens
    if packing == "best_fit":
        return tokens.num_tokens - tokens.num_documents
    used = len(source.dataset) * LENGTH
    ends = np.concatenate(
        [
            shard.ends + first
            for shard, first in zip(tokens.shards, tokens.first_token, strict=False)
        ]
    )
    return used - int((ends <= used).sum())


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@settings(deadline=None, max_examples=12)
@given(life=lives())
def test_what_is_listed_is_what_the_rows_hold_and_documents_find_their_steps(splits, packing, life):
    check(splits, packing, life)


@pytest.mark.data
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@settings(deadline=None, max_examples=80)
@given(life=lives(), block_samples=st.sampled_from([0, 3, 8]))
def test_the_same_in_many_more_lives(splits, packing, life, block_samples):
    check(splits, packing, life, block_samples)


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_three_epochs_with_a_change_in_the_middle_of_each(splits, packing):
    life = [(13, 7, {"code": 2, "web": 1}), (20, 11, {"code": 1, "web": 5})]
    life.append((9, 16, {"code": 1, "web": 0}))
    check(splits, packing, life, block_samples=5)
    schedule, steps = lived(life)
    _, ledger = read_by(splits, packing, schedule)
    consumed = ledger.plan.consumed_by_steps(steps)
    assert all(consumed[name] > 2 * len(ledger.sources[name].dataset) for name in splits)


def test_bytes_are_those_of_the_text(splits, tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    schedule = Schedule.planned(9, {0: {"code": 1, "web": 1}})
    _, ledger = read_by(splits, "concat", schedule)
    for name, texts in TEXTS.items():
        parts = [part for step in range(12) for part in ledger.parts_of_step(step)]
        parts = [part for part in parts if part.source == name]
        ranges = byte_ranges(splits[name], tokenizer.token_bytes(), parts)
        assert any(start for start, _ in ranges)
        for part, (start, stop) in zip(parts, ranges, strict=True):
            ids = splits[name].document(part.document)[part.first : part.stop]
            text = tokenizer.decode(ids.tolist(), skip_control=True)
            content = texts[part.document].encode()[start:stop]
            assert content.decode(errors="replace") == text


def test_nothing_was_read_before_the_first_step(splits):
    _, ledger = read_by(splits, "concat", Schedule.planned(8, {0: {"code": 1, "web": 1}}))
    assert ledger.parts_of_document("web", 0, 0) == []
    assert ledger.plan.consumed_by_steps(0) == {"code": 0, "web": 0}


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_an_empty_document_is_in_no_sample(splits, packing):
    _, ledger = read_by(splits, packing, Schedule.planned(8, {0: {"code": 1, "web": 1}}))
    empty = TEXTS["web"].index("")
    assert ledger.parts_of_document("web", empty, 50) == []
    assert ledger.parts_of_document("web", empty - 1, 50)
    with pytest.raises(IndexError):
        ledger.parts_of_document("web", len(TEXTS["web"]), 50)


@pytest.mark.parametrize("known", [1, 37, 64, 100])
def test_the_order_of_a_source_that_grows_is_found_again(known):
    whole = GrowingOrder(Order(3, "web", 1, block_samples=4, window_blocks=4), known, True)
    n = np.arange(3 * known)
    epochs, indices = whole.visit(n)
    assert epochs.tolist() == (n // known).tolist()
    for epoch in range(3):
        of_epoch = indices[epochs == epoch]
        assert sorted(of_epoch.tolist()) == list(range(known))
        assert whole.find(epoch, of_epoch).tolist() == n[epochs == epoch].tolist()
    # As long as ranges are missing, nothing moves in the windows that are there.
    part = GrowingOrder(whole.order, known, False)
    there = n[: known // 16 * 16]
    assert part.visit(there)[1].tolist() == indices[: len(there)].tolist()
    assert part.find(0, indices[: len(there)]).tolist() == there.tolist()


@pytest.mark.data
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("steps", [3, 10, 60])
def test_what_was_tokenized_on_the_fly_is_accounted_for(splits, packing, steps, tmp_path):
    make_tokenizer(tmp_path)
    ranges = RangeShards(MakeTexts(tmp_path), range_order(3, "web", 7), patience=Patience(5, 60))
    order = Order(3, "web", 1, block_samples=4, window_blocks=2)
    packed = packing == "best_fit"
    web = OnTheFlyStream(ranges, order, LENGTH, is_packed=packed, content="made")
    code = dataset_of(splits["code"], packing)
    streams = {
        "web": web,
        "code": DocumentStream(code, Order(3, "code", len(code)), SourceTokens(splits["code"], "")),
    }
    schedule = Schedule.planned(8, {0: {"web": 3, "code": 1}, 20: {"web": 1}})
    feed, ledger = account(streams, schedule, steps)
    assert ledger.sources["web"].order.is_whole == (steps == 60)
    check_ledger(feed, ledger, steps, packing)
    web.close()
