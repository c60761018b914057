import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.datasets import (
    JoinedDataset,
    PackedDataset,
    PretrainDataset,
    gather,
)
from distrain.data.samples.examples import example_dataset
from distrain.data.samples.feed import Feed, OrderedStream
from distrain.data.samples.loader import Loader, Microbatch, evaluation_microbatches
from distrain.data.samples.order import Order
from distrain.data.samples.packing import PackedIndex, plan_best_fit
from distrain.data.samples.schedule import Schedule
from distrain.data.shards.reader import open_split
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.distrain.data.samples.made_examples import example

LENGTH = 32
FIELDS = ("input_ids", "target_ids", "position_ids", "document_starts")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    write_split(folder, "train", make_texts(60))
    return open_split(folder, "train", stage_kind="pretrain")


@pytest.fixture
def dataset(split):
    return PretrainDataset(split, LENGTH)


def feed_of(dataset, batch_size=24, seed=7):
    stream = OrderedStream(dataset, Order(seed, "text", len(dataset)), "content")
    return Feed({"text": stream}, Schedule.planned(batch_size, {0: {"text": 1}}), seed)


def loader(dataset, batch_size=24, **changes):
    return Loader(feed_of(dataset, batch_size), **{"micro_batch_size": 4} | changes)


def stacked(microbatches, field="input_ids"):
    if field == "document_starts":
        return torch.cat([document_starts(part) for part in microbatches])
    return torch.cat([getattr(part, field) for part in microbatches])


def document_starts(part):
    """Return which positions begin a document: their numbers differ from cut to cut."""
    starts = torch.zeros(part.input_ids.numel(), dtype=torch.bool)
    starts[part.cu_seqlens[:-1]] = True
    return starts.view_as(part.input_ids)


def test_ignored_targets_are_those_the_loss_ignores():
    assert IGNORE_INDEX == IGNORE_INDEX


@pytest.mark.parametrize("dp_size", [2, 3, 4, 8])
def test_ranks_together_read_the_batch_of_one_rank(dataset, dp_size):
    for step in (0, 1, 17, 1000):
        whole = loader(dataset).batch_at(step)
        parts = [
            loader(dataset, dp_rank=rank, dp_size=dp_size).batch_at(step) for rank in range(dp_size)
        ]
        for field in FIELDS:
            together = torch.cat([stacked(part.microbatches, field) for part in parts])
            assert torch.equal(together, stacked(whole.microbatches, field))
        assert {(part.first_sample, part.num_samples) for part in parts} == {(24 * step, 24)}
        assert sum(part.digest for part in parts) % 2**32 == whole.digest


@pytest.mark.parametrize("micro_batch_size", [1, 5, 24, 100])
def test_the_cut_into_microbatches_changes_neither_rows_nor_digest(dataset, micro_batch_size):
    whole = loader(dataset).batch_at(3)
    cut = loader(dataset, micro_batch_size=micro_batch_size).batch_at(3)
    for field in FIELDS:
        assert torch.equal(stacked(cut.microbatches, field), stacked(whole.microbatches, field))
    assert cut.digest == whole.digest
    assert max(len(part.input_ids) for part in cut.microbatches) <= micro_batch_size
    for part in (part.to(torch.device("meta")) for part in cut.microbatches):
        assert sum(part.document_lengths) == part.input_ids.numel()
        assert len(part.document_lengths) == len(part.cu_seqlens) - 1
    assert cut.digest != loader(dataset).batch_at(4).digest


def test_a_digest_tells_the_order_of_samples_and_every_id(dataset):
    rows = gather(dataset, np.arange(4))
    assert gather(dataset, np.array([1, 0, 2, 3])).digest() != rows.digest()
    assert rows.digest(8) != rows.digest()
    changed = gather(dataset, np.arange(4))
    changed.target_ids[3, LENGTH - 1] += 1
    assert changed.digest() != rows.digest()


def test_samples_are_the_stream_in_pieces(dataset, split):
    rows = gather(dataset, np.arange(len(dataset)))
    stream = split.tokens(0, split.num_tokens)
    used = len(dataset) * LENGTH
    assert split.num_tokens - 1 - used < LENGTH
    assert rows.input_ids.ravel().tolist() == stream[:used].tolist()
    expected = stream[1 : used + 1].copy()
    expected[stream[:used] == split.eos_id] = IGNORE_INDEX
    assert rows.target_ids.ravel().tolist() == expected.tolist()


def documents_of(rows):
    """Where each document of ``rows`` begins and ends: row, first and last place."""
    spans = zip(rows.cu_seqlens[:-1].tolist(), rows.cu_seqlens[1:].tolist(), strict=True)
    length = rows.input_ids.shape[1]
    return [(a // length, a % length, a % length + b - a) for a, b in spans]


def test_documents_and_positions_are_those_of_the_document_ends(dataset, split):
    rows = gather(dataset, np.arange(len(dataset)))
    ends = np.cumsum([len(split.document(number)) for number in range(split.num_documents)])
    begins = {0, *ends[ends < len(dataset) * LENGTH].tolist(), *range(0, len(dataset) * LENGTH, 32)}
    assert rows.cu_seqlens.tolist() == [*sorted(begins), len(dataset) * LENGTH]
    for row, first, last in documents_of(rows):
        assert rows.position_ids[row, first:last].tolist() == list(range(last - first))


def test_rows_in_another_order_are_the_same_rows(dataset):
    rows = gather(dataset, np.arange(len(dataset)))
    order = np.random.default_rng(0).permutation(len(dataset))
    again = gather(dataset, order)
    for field in ("input_ids", "target_ids", "position_ids"):
        assert np.array_equal(getattr(again, field), getattr(rows, field)[order])


def test_the_tail_makes_a_padded_sample_only_for_measuring(dataset, split):
    measured = PretrainDataset(split, LENGTH, keep_tail=True)
    rest = (split.num_tokens - 1) % LENGTH
    assert rest
    assert len(measured) == len(dataset) + 1
    rows = gather(measured, np.array([len(dataset)]))
    assert rest in rows.cu_seqlens
    assert rows.position_ids[0, rest:].tolist() == list(range(LENGTH - rest))
    assert rows.padding is not None
    assert rows.padding.tolist() == [LENGTH - rest]
    assert (rows.target_ids[0, rest:] == IGNORE_INDEX).all()
    everything = gather(measured, np.arange(len(measured)))
    # All tokens are targets, but the first and those that follow the end of a document.
    assert (everything.target_ids != IGNORE_INDEX).sum() == split.num_tokens - split.num_documents
    with pytest.raises(IndexError):
        gather(dataset, np.array([len(dataset)]))


def test_joined_datasets_are_one_after_the_other(dataset, split):
    other = PretrainDataset(split, LENGTH, keep_tail=True)
    joined = JoinedDataset([dataset, other])
    assert len(joined) == 2 * len(dataset) + 1
    rows = gather(joined, np.array([len(dataset) + 3, 2, 2 * len(dataset)]))
    expected = [gather(other, np.array([3])), gather(dataset, np.array([2]))]
    assert np.array_equal(rows.input_ids[:1], expected[0].input_ids)
    assert np.array_equal(rows.target_ids[1:2], expected[1].target_ids)


def test_packed_samples_hold_every_target_of_every_document_once(split):
    index = PackedIndex([plan_best_fit(shard.ends, LENGTH) for shard in split.shards])
    packed = PackedDataset(split, index, LENGTH)
    rows = gather(packed, np.arange(len(packed)))
    full = [sum(p.length) for p in map(packed.pieces_of, np.arange(len(packed))[:, None])]
    assert rows.padding is not None
    assert (LENGTH - rows.padding).tolist() == full
    pairs: list[tuple[int, int]] = []
    for row, first, last in documents_of(rows):
        targets = rows.target_ids[row, first:last]
        assert (targets == IGNORE_INDEX).all() or (targets != IGNORE_INDEX).all()
        if targets[0] != IGNORE_INDEX:
            assert rows.position_ids[row, first:last].tolist() == list(range(last - first))
            pairs += zip(rows.input_ids[row, first:last].tolist(), targets.tolist(), strict=True)
    expected: list[tuple[int, int]] = []
    for number in range(split.num_documents):
        ids = split.document(number).tolist()
        expected += pairwise(ids)
    assert sorted(pairs) == sorted(expected)


def test_pairs_are_filled_up_with_positions_that_nothing_sees():
    pair = example([5, 6, 7, 0], trained_from=2)
    rows = gather(example_dataset([pair], 5, pad_id=3), np.array([0]))
    assert rows.input_ids.tolist() == [[5, 6, 7, 3, 3]]
    assert rows.target_ids.tolist() == [[IGNORE_INDEX, 7, 0, IGNORE_INDEX, IGNORE_INDEX]]
    assert rows.cu_seqlens.tolist() == [0, 3, 5]
    assert rows.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    part = Microbatch.from_rows(rows, 0, 1)
    assert part.num_targets == 2
    assert document_starts(part).tolist() == [[True, False, False, True, False]]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_made_ahead_are_those_of_their_steps(dataset, prefetch):
    source = loader(dataset, prefetch=prefetch)
    batches = source.batches(start_step=5)
    assert [next(batches).digest for _ in range(4)] == [
        source.batch_at(5 + i).digest for i in range(4)
    ]
    batches.close()


@pytest.mark.parametrize("prefetch", [0, 3])
def test_nothing_is_made_of_steps_that_nobody_will_ask_for(dataset, prefetch):
    made = []

    class Counting:
        sequence_length = LENGTH
        signature = ("counting",)

        def __len__(self):
            return len(dataset)

        def fill(self, buffer, rows, indices):
            made.extend(indices.tolist())
            dataset.fill(buffer, rows, indices)

    source = loader(Counting(), prefetch=prefetch)
    digests = [batch.digest for batch in source.batches(2, 5)]
    assert digests == [loader(dataset).batch_at(step).digest for step in (2, 3, 4)]
    assert len(made) == 3 * 24
    assert list(source.batches(5, 5)) == []


def test_closing_ends_the_thread(dataset):
    before = threading.active_count()
    batches = loader(dataset).batches()
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_who_asks_for_that_batch(dataset, monkeypatch):
    class Failing:
        sequence_length = LENGTH
        signature = ("failing",)

        def __len__(self):
            return len(dataset)

        def fill(self, buffer, rows, indices):
            if order.find(0, indices).max() >= 24:
                failures.append(len(indices))
                raise OSError("disk gone")
            dataset.fill(buffer, rows, indices)

    failures: list[int] = []
    order = Order(7, "text", len(dataset))
    batches = loader(Failing()).batches()
    monkeypatch.setattr("distrain.data.samples.loader.TOKENS_AT_ONCE", 24 * LENGTH)
    next(batches)
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
    assert len(failures) == 1, "each further one might wait for what does not come"


def test_a_batch_that_the_ranks_cannot_share_is_refused(dataset):
    with pytest.raises(ValueError, match="batch of 25 samples for 2 ranks"):
        loader(dataset, 25, dp_size=2).batch_at(0)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_change_no_batch(dataset, num_threads):
    batches = loader(dataset, prefetch=6, num_threads=num_threads).batches()
    expected = loader(dataset)
    for step in range(20):
        assert next(batches).digest == expected.batch_at(step).digest
    batches.close()


@pytest.mark.parametrize("dp_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("limit", [None, 1, 13])
def test_measuring_reads_every_sample_once_in_equal_numbers_of_microbatches(
    dataset, dp_size, limit
):
    indices = None if limit is None else np.arange(limit)
    ranks = [
        list(
            evaluation_microbatches(
                dataset, micro_batch_size=5, dp_rank=rank, dp_size=dp_size, indices=indices
            )
        )
        for rank in range(dp_size)
    ]
    assert len({len(parts) for parts in ranks}) == 1
    # Round by round, rank by rank: the order of the samples.
    parts = [part for turn in zip(*ranks, strict=True) for part in turn]
    assert all(0 < len(part.input_ids) <= 5 for part in parts)
    real = torch.cat([part.target_ids for part in parts if part.num_targets])
    count = len(dataset) if limit is None else limit
    assert torch.equal(real, torch.from_numpy(gather(dataset, np.arange(count)).target_ids))


def test_nothing_to_measure_is_an_error(split):
    with pytest.raises(DataError, match="less than one sample"):
        next(evaluation_microbatches(PretrainDataset(split, 10**6), micro_batch_size=4))
