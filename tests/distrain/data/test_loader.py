import threading

import numpy as np
import pytest
import torch

import distrain.loss
from distrain.data.loader import (
    IGNORE_INDEX,
    Loader,
    Microbatch,
    PretrainDataset,
    SftDataset,
    evaluation_microbatches,
)
from distrain.data.shards import open_split
from distrain.errors import DataError
from tests.distrain.data.corpus import make_texts, write_split

LENGTH = 32


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    write_split(folder, "train", make_texts(60))
    return open_split(folder, "train", stage_kind="pretrain")


@pytest.fixture
def dataset(split):
    return PretrainDataset(split, LENGTH)


def loader(dataset, **changes):
    settings = {"seed": 7, "global_batch_size": 24, "micro_batch_size": 4} | changes
    return Loader(dataset, **settings)


def stacked(microbatches, field="input_ids"):
    return torch.cat([getattr(part, field) for part in microbatches])


def test_ignored_targets_are_those_the_loss_ignores():
    assert IGNORE_INDEX == distrain.loss.IGNORE_INDEX


@pytest.mark.parametrize("dp_size", [2, 3, 4, 8])
def test_ranks_together_read_the_batch_of_one_rank(dataset, dp_size):
    for step in (0, 1, 17, 1000):
        whole = loader(dataset).batch_at(step)
        parts = [
            loader(dataset, dp_rank=rank, dp_size=dp_size).batch_at(step) for rank in range(dp_size)
        ]
        for field in ("input_ids", "target_ids", "document_ids", "position_ids"):
            together = torch.cat([stacked(part.microbatches, field) for part in parts])
            assert torch.equal(together, stacked(whole.microbatches, field))
        assert {(part.first_sample, part.num_samples) for part in parts} == {(24 * step, 24)}


@pytest.mark.parametrize("micro_batch_size", [1, 5, 24, 100])
def test_the_cut_into_microbatches_changes_neither_rows_nor_crc(dataset, micro_batch_size):
    whole = loader(dataset).batch_at(3)
    cut = loader(dataset, micro_batch_size=micro_batch_size).batch_at(3)
    assert torch.equal(stacked(cut.microbatches), stacked(whole.microbatches))
    assert cut.crc == whole.crc
    assert max(len(part.input_ids) for part in cut.microbatches) <= micro_batch_size
    assert cut.crc != loader(dataset).batch_at(4).crc


def test_an_epoch_reads_every_sample_once_and_the_next_one_again(dataset):
    epoch = len(dataset)
    steps = [loader(dataset).sample_indices_at(step) for step in range(-(-2 * epoch // 24))]
    seen = np.concatenate(steps)[: 2 * epoch]
    assert sorted(seen[:epoch]) == sorted(seen[epoch:]) == list(range(epoch))
    assert seen[:epoch].tolist() != seen[epoch:].tolist()


def test_unshuffled_samples_come_in_their_own_order(dataset):
    indices = loader(dataset, shuffle=False).sample_indices_at(1)
    assert indices.tolist() == [k % len(dataset) for k in range(24, 48)]


def test_samples_are_the_stream_in_pieces(dataset, split):
    rows = dataset.gather(np.arange(len(dataset)))
    stream = split.tokens(0, split.num_tokens)
    used = len(dataset) * LENGTH
    assert split.num_tokens - 1 - used < LENGTH
    assert rows.input_ids.ravel().tolist() == stream[:used].tolist()
    expected = stream[1 : used + 1].copy()
    expected[stream[:used] == split.eos_id] = IGNORE_INDEX
    assert rows.target_ids.ravel().tolist() == expected.tolist()


def test_documents_and_positions_are_those_of_the_document_ends(dataset, split):
    rows = dataset.gather(np.arange(len(dataset)))
    number, start = np.empty(split.num_tokens, int), np.empty(split.num_tokens, int)
    place = 0
    for document in range(split.num_documents):
        end = place + len(split.document(document))
        number[place:end], start[place:end] = document, place
        place = end
    for row in range(len(dataset)):
        places = np.arange(row * LENGTH, (row + 1) * LENGTH)
        documents = number[places]
        assert rows.document_ids[row].tolist() == (documents - documents[0]).tolist()
        begins = np.maximum(start[places], row * LENGTH)
        assert rows.position_ids[row].tolist() == (places - begins).tolist()


def test_the_tail_makes_a_padded_sample_only_for_measuring(dataset, split):
    measured = PretrainDataset(split, LENGTH, keep_tail=True)
    rest = (split.num_tokens - 1) % LENGTH
    assert rest
    assert len(measured) == len(dataset) + 1
    rows = measured.gather(np.array([len(dataset)]))
    assert (rows.document_ids[0] >= 0).tolist() == [True] * rest + [False] * (LENGTH - rest)
    assert (rows.target_ids[0, rest:] == IGNORE_INDEX).all()
    everything = measured.gather(np.arange(len(measured)))
    # All tokens are targets, but the first and those that follow the end of a document.
    assert (everything.target_ids != IGNORE_INDEX).sum() == split.num_tokens - split.num_documents
    with pytest.raises(IndexError):
        dataset.gather(np.array([len(dataset)]))


def test_pairs_are_filled_up_with_positions_that_nothing_sees():
    pair = (np.array([5, 6, 7]), np.array([IGNORE_INDEX, 7, 0]))
    rows = SftDataset([pair], 5, pad_id=3).gather(np.array([0]))
    assert rows.input_ids.tolist() == [[5, 6, 7, 3, 3]]
    assert rows.target_ids.tolist() == [[IGNORE_INDEX, 7, 0, IGNORE_INDEX, IGNORE_INDEX]]
    assert rows.document_ids.tolist() == [[0, 0, 0, -1, -1]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 0, 0]]
    part = Microbatch.from_rows(rows, 0, 1)
    assert part.num_targets == 2
    assert {tensor.dtype for tensor in vars(part).values()} == {torch.int64}


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_made_ahead_are_those_of_their_steps(dataset, prefetch):
    source = loader(dataset, prefetch=prefetch)
    batches = source.batches(start_step=5)
    assert [next(batches).crc for _ in range(4)] == [source.batch_at(5 + i).crc for i in range(4)]
    batches.close()


def test_closing_ends_the_thread(dataset):
    before = threading.active_count()
    batches = loader(dataset).batches()
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_who_asks_for_that_batch(dataset):
    class Failing:
        def __len__(self):
            return 100

        def gather(self, indices):
            if 30 in indices:
                raise OSError("disk gone")
            return dataset.gather(indices % len(dataset))

    batches = loader(Failing(), shuffle=False).batches()
    next(batches)
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_a_corpus_smaller_than_a_batch_is_refused_with_both_numbers(split):
    dataset = PretrainDataset(split, split.num_tokens // 10)
    with pytest.raises(DataError) as caught:
        loader(dataset, global_batch_size=64, dp_size=4)
    assert "9 samples" in caught.value.found or "10 samples" in caught.value.found
    assert "global batch of 64" in caught.value.found
    assert "lower training.global_batch_size to 8" in caught.value.remedy
    with pytest.raises(ValueError, match="batch of 25"):
        loader(dataset, global_batch_size=25, dp_size=2)


@pytest.mark.parametrize("dp_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("limit", [None, 1, 13])
def test_measuring_reads_every_sample_once_in_equal_numbers_of_microbatches(
    dataset, dp_size, limit
):
    ranks = [
        list(
            evaluation_microbatches(
                dataset, micro_batch_size=5, dp_rank=rank, dp_size=dp_size, max_samples=limit
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
    assert torch.equal(real, torch.from_numpy(dataset.gather(np.arange(count)).target_ids))


def test_nothing_to_measure_is_an_error(split):
    with pytest.raises(DataError, match="less than one sample"):
        next(evaluation_microbatches(PretrainDataset(split, 10**6), micro_batch_size=4))
