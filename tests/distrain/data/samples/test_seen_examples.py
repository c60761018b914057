import numpy as np
import pytest

from distrain.data.samples.examples import ExampleStream, example_dataset
from distrain.data.samples.feed import Feed
from distrain.data.samples.order import Order
from distrain.data.samples.schedule import Schedule
from distrain.data.samples.seen_examples import ExampleLedger
from tests.distrain.data.samples.made_examples import made_examples

LENGTH, STEPS = 32, 14
SOURCES = {"a": made_examples(60, 1), "b": made_examples(25, 2)}


@pytest.fixture(params=["none", "best_fit"])
def feed(request):
    """Two sources, of which one is soon read twice; batch size and mixture change at step 5."""
    streams = {}
    for name, found in SOURCES.items():
        dataset = example_dataset(found, LENGTH, pad_id=0, packing=request.param)
        streams[name] = ExampleStream(dataset, Order(3, name, len(dataset)))
    first = Schedule.planned(8, {0: {"a": 3, "b": 1}})
    return Feed(streams, first.continued(5, Schedule.planned(6, {0: {"a": 1, "b": 4}})), 3)


def test_places_of_a_step_are_what_its_rows_hold(feed):
    ledger = ExampleLedger(feed.plan, feed.streams)
    for step in range(STEPS):
        first, size = feed.schedule.samples_of(step)
        rows = feed.rows(np.arange(first, first + size))
        places = ledger.places_of_step(step)
        covered = np.zeros_like(rows.input_ids, bool)
        for place in places:
            row, where = place.sample - first, slice(place.first, place.stop)
            example = SOURCES[place.source][place.example]
            assert rows.input_ids[row, where].tolist() == example.ids[:-1].tolist()
            assert place.num_targets == example.is_trained[1:].sum()
            assert not covered[row, where].any()
            covered[row, where] = True
        assert sum(place.num_targets for place in places) == (rows.target_ids >= 0).sum()


def test_steps_and_examples_tell_the_same(feed):
    ledger = ExampleLedger(feed.plan, feed.streams)
    by_step = sorted(p for step in range(STEPS) for p in ledger.places_of_step(step))
    by_example = [
        place
        for source, found in SOURCES.items()
        for number in range(len(found))
        for place in ledger.places_of_example(source, number, STEPS)
    ]
    assert by_step == sorted(by_example)
    assert {place.epoch for place in by_step if place.source == "b"} >= {0, 1}
    # Each example once before any twice.
    once = [place.example for place in by_step if (place.source, place.epoch) == ("b", 0)]
    assert sorted(once) == list(range(25))
    # One step fewer is another answer.
    fewer = [p for p in by_example if p.sample < feed.schedule.samples_of(STEPS - 1)[0]]
    assert fewer == [
        place
        for source, found in SOURCES.items()
        for number in range(len(found))
        for place in ledger.places_of_example(source, number, STEPS - 1)
    ]
    assert ledger.places_of_example("a", 0, 0) == []
