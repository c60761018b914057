import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.data.samples.datasets import gather
from distrain.data.samples.examples import example_dataset
from distrain.data.samples.held_out import Choice, HeldOut, share_out
from distrain.errors import DataError
from tests.distrain.data.samples.made_examples import made_examples
from tests.distrain.train.synthetic import SyntheticDataset

SIZES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.integers(0, 400), min_size=1, max_size=6
).filter(lambda sizes: sum(sizes.values()) > 0)
LIMITS = st.none() | st.integers(1, 900)


@given(SIZES, LIMITS)
def test_shares_are_those_of_the_sources_to_less_than_a_sample(sizes, limit):
    counts = share_out(sizes, limit)
    total = sum(sizes.values())
    wanted = total if limit is None else min(limit, total)
    assert list(counts) == list(sizes)
    assert sum(counts.values()) == wanted
    for name, count in counts.items():
        assert 0 <= count <= sizes[name]
        assert abs(count - wanted * sizes[name] / total) < 1


@given(SIZES, st.integers(1, 900))
def test_the_largest_remainders_are_served_first(sizes, limit):
    counts, total = share_out(sizes, limit), sum(sizes.values())
    if limit >= total:
        return
    remainders = {name: limit * size % total for name, size in sizes.items()}
    raised = [n for n in sizes if counts[n] > limit * sizes[n] // total]
    assert all(remainders[a] >= remainders[b] for a in raised for b in set(sizes) - set(raised))


@given(SIZES, LIMITS)
def test_samples_are_chosen_once_and_evenly_spaced(sizes, limit):
    choice = Choice.made(sizes, limit)
    for name, size in sizes.items():
        indices = choice.indices(name, size)
        count = choice.counts[name]
        assert len(set(indices.tolist())) == len(indices) == count
        if not count:
            continue
        assert indices[0] == 0
        assert indices[-1] < size
        gaps = np.diff([*indices, size])
        assert gaps.min() >= size // count if len(sizes) > 1 else True
        assert gaps.max() <= -(-size // count) if len(sizes) > 1 else True


@given(st.integers(1, 400), LIMITS)
def test_of_one_source_the_first_samples_are_measured_as_ever(size, limit):
    choice = Choice.made({"main": size}, limit)
    expected = np.arange(size if limit is None else min(size, limit))
    assert np.array_equal(choice.indices("main", size), expected)
    assert choice == Choice.of_older_version({"main": size}, limit)


@given(SIZES)
def test_without_a_limit_every_sample_is_measured_in_order(sizes):
    for choice in (Choice.made(sizes, None), Choice.of_older_version(sizes, None)):
        for name, size in sizes.items():
            assert np.array_equal(choice.indices(name, size), np.arange(size))


def test_older_versions_measured_the_first_source_by_name_alone():
    sizes = {"code": 50, "web": 500}
    assert Choice.of_older_version(sizes, 40).counts == {"code": 40, "web": 0}
    assert Choice.made(sizes, 40).counts == {"code": 4, "web": 36}


@given(SIZES, LIMITS)
def test_a_choice_survives_a_checkpoint(sizes, limit):
    choice = Choice.made(sizes, limit)
    assert Choice.from_json(choice.to_json()) == choice


def make_held_out(limit=16):
    sources = {"code": SyntheticDataset(11), "web": SyntheticDataset(29, first=1000)}
    return sources, HeldOut(sources, limit)


@pytest.mark.parametrize("dp_size", [1, 2, 4, 7])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_the_ranks_together_measure_the_chosen_samples_of_each_source(dp_size, micro_batch_size):
    sources, held_out = make_held_out()
    found: dict[str, list[list[int]]] = {name: [] for name in sources}
    ranks = [
        list(held_out.parts(micro_batch_size=micro_batch_size, dp_rank=rank, dp_size=dp_size))
        for rank in range(dp_size)
    ]
    assert len({len(parts) for parts in ranks}) == 1
    for turn in zip(*ranks, strict=True):
        for part in turn:
            for name, rows in part.rows.items():
                found[name] += part.microbatch.input_ids[rows].tolist()
    for name, dataset in sources.items():
        indices = held_out.choice.indices(name, len(dataset))
        assert found[name] == gather(dataset, indices).input_ids.tolist()


def test_a_choice_is_kept_whatever_the_limit_is_later():
    _, before = make_held_out(limit=10)
    _, later = make_held_out(limit=30)
    later.restore(before.choice.to_json())
    assert later.choice == before.choice
    later.restore(None)
    assert later.choice == Choice({"code": 11, "web": 19}, spaced=False)


def test_other_held_out_examples_than_before_are_refused():
    """Train examples may be the same: a file of one's own, or rows that fall to validation."""

    def held_out_of(examples):
        dataset = example_dataset(examples, 32, pad_id=0)
        return HeldOut({"own": dataset}, None, {"own": dataset.tokens.digest()})

    state = held_out_of(made_examples(9)).state()
    held_out_of(made_examples(9)).restore(json.loads(json.dumps(state)))
    for examples in (made_examples(10), made_examples(8), made_examples(9, seed=1)):
        with pytest.raises(DataError, match="held-out examples of source 'own': found other"):
            held_out_of(examples).restore(state)
        older = Choice({"own": 8}, spaced=False).to_json()  # versions that took no digest
        held_out_of(examples).restore(older)


def test_nothing_to_measure_is_an_error():
    held_out = HeldOut({"web": SyntheticDataset(0)}, 4)
    with pytest.raises(DataError, match="less than one sample"):
        next(held_out.parts(micro_batch_size=1, dp_rank=0, dp_size=1))
