import numpy as np
import pytest

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.datasets import gather
from distrain.data.samples.examples import example_dataset
from distrain.data.samples.feed import Feed, OrderedStream
from distrain.data.samples.loader import Loader
from distrain.data.samples.order import Order
from distrain.data.samples.schedule import Schedule
from tests.distrain.data.samples.made_examples import example, made_examples

LENGTH = 32


def packed(examples, length=LENGTH):
    return example_dataset(examples, length, pad_id=0, packing="best_fit")


def documents(rows):
    """Yield input ids, target ids and positions of each document that is no padding."""
    flat = rows.input_ids.reshape(-1), rows.target_ids.reshape(-1), rows.position_ids.reshape(-1)
    for start, stop in zip(rows.cu_seqlens, rows.cu_seqlens[1:], strict=False):
        inputs, targets, positions = (part[start:stop].tolist() for part in flat)
        if any(target != IGNORE_INDEX for target in targets):
            yield inputs, targets, positions


@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_each_example_is_one_whole_document_once_with_positions_from_0(packing):
    examples = made_examples(200)
    dataset = example_dataset(examples, LENGTH, pad_id=0, packing=packing)
    rows = gather(dataset, np.arange(len(dataset)))
    found = sorted(documents(rows))
    expected = []
    for one in examples:
        targets = np.where(one.is_trained, one.ids, IGNORE_INDEX).tolist()[1:]
        expected.append((one.ids.tolist()[:-1], targets, list(range(len(one.ids) - 1))))
    assert found == sorted(expected)
    assert (rows.target_ids != IGNORE_INDEX).sum() == dataset.tokens.num_targets().sum()
    inputs = LENGTH - dataset.sums(dataset.tokens.num_inputs())
    assert rows.padding is not None
    assert rows.padding.tolist() == inputs.tolist()
    trained = dataset.sums(dataset.tokens.num_targets())
    assert trained.tolist() == (rows.target_ids != IGNORE_INDEX).sum(1).tolist()
    for number in range(len(examples)):
        (index,) = dataset.samples_with(number).tolist()
        assert number in dataset.members(index).tolist()


def test_packing_leaves_little_empty_where_single_rows_leave_much():
    examples = made_examples(400)
    single = example_dataset(examples, LENGTH, pad_id=0)
    assert packed(examples).padding() < 0.05 < 0.4 < single.padding()
    assert len(packed(examples)) < len(single)
    assert packed(examples).signature != single.signature


def test_targets_go_by_position_even_where_padding_is_what_ends_an_answer():
    ids = [7, 8, 2, 9, 2]
    rows = gather(example_dataset([example(ids, trained_from=3)], 6, pad_id=2), np.array([0]))
    assert rows.input_ids.tolist() == [[7, 8, 2, 9, 2, 2]]
    ignored = IGNORE_INDEX
    assert rows.target_ids.tolist() == [[ignored, ignored, 9, 2, ignored, ignored]]


def stream(name, examples):
    dataset = packed(examples)
    return OrderedStream(dataset, Order(5, name, len(dataset)), dataset.tokens.digest())


def test_a_mixture_of_packed_sources_is_the_same_batch_on_any_ranks():
    sources = {name: made_examples(90, seed) for seed, name in enumerate(("a", "b"))}

    def feed():
        streams = {name: stream(name, found) for name, found in sources.items()}
        return Feed(streams, Schedule.planned(8, {0: {"a": 3, "b": 1}}), 5)

    def batch(step, ranks):
        parts, padding = [], 0
        for rank in range(ranks):
            loader = Loader(feed(), micro_batch_size=2, dp_rank=rank, dp_size=ranks)
            found = loader.batch_at(step)
            padding += found.num_padding
            for part in found.microbatches:
                parts += part.input_ids.tolist()
        return [*parts, padding]

    for step in (0, 7, 31):
        assert batch(step, 1) == batch(step, 2) == batch(step, 4)
    assert batch(0, 1) != batch(1, 1)
    assert feed().plan.consumed(2048) == {"a": 1536, "b": 512}
    # Another example, or another order of them, is another source: such a run is not resumed.
    a, b = sources["a"], sources["a"][::-1]
    assert stream("a", a).fingerprint == stream("a", a).fingerprint
    assert stream("a", a).fingerprint != stream("a", b).fingerprint
