import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.samples.schedule import SamplePlan, Schedule, Segment

A, B = {"code": 1.0, "web": 3.0}, {"code": 1.0, "books": 2.0}


def lives():
    """Runs that were resumed with other settings: [(step, batch size, weights)]."""
    weights = st.fixed_dictionaries({"web": st.integers(1, 5), "code": st.integers(1, 5)})
    changes = st.tuples(st.integers(1, 400), st.integers(1, 40), weights)
    return st.lists(changes, min_size=1, max_size=4)


def lived(life):
    step = 0
    schedule = Schedule.planned(life[0][1], {0: life[0][2]})
    for steps, batch_size, weights in life[1:]:
        step += steps
        schedule = schedule.continued(step, Schedule.planned(batch_size, {0: weights}))
    return schedule, step + 50


def samples_until(schedule, step):
    parts = [schedule.samples_of(number) for number in range(step)]
    return np.concatenate([np.arange(first, first + size) for first, size in parts])


@settings(deadline=None, max_examples=40)
@given(lives())
def test_a_run_that_changes_loses_and_repeats_nothing(life):
    schedule, steps = lived(life)
    samples = samples_until(schedule, steps)
    assert samples.tolist() == list(range(len(samples)))
    plan = SamplePlan(9, schedule)
    sources, numbers = plan.draw(samples)
    for column, name in enumerate(plan.names):
        read = numbers[sources == column]
        assert read.tolist() == list(range(len(read)))
        assert plan.consumed(len(samples))[name] == len(read)


@settings(deadline=None, max_examples=25)
@given(lives(), st.data())
def test_find_and_step_of_undo_what_the_run_reads(life, data):
    schedule, steps = lived(life)
    plan = SamplePlan(9, schedule)
    step = data.draw(st.integers(0, steps - 1))
    first, size = schedule.samples_of(step)
    g = data.draw(st.integers(first, first + size - 1))
    sources, numbers = plan.draw(np.array([g]))
    assert plan.find(plan.names[sources[0]], int(numbers[0])) == g
    assert schedule.step_of(g) == step


def test_a_change_keeps_what_was_read_and_a_new_source_starts_at_its_first_sample():
    old = Schedule.planned(8, {0: A})
    new = old.continued(100, Schedule.planned(16, {0: B}))
    assert new.segments == (Segment(0, 0, 8, A), Segment(100, 800, 16, B))
    before, after = SamplePlan(1, old), SamplePlan(1, new)
    early = np.arange(800)
    names = [np.array(plan.names)[plan.draw(early)[0]].tolist() for plan in (before, after)]
    assert names[0] == names[1]
    sources, numbers = after.draw(np.arange(800, 1200))
    books = numbers[sources == after.names.index("books")]
    code = numbers[sources == after.names.index("code")]
    assert books[0] == 0
    assert code[0] == before.consumed(800)["code"]


def test_the_same_plan_appends_nothing():
    planned = Schedule.planned(8, {0: A})
    assert planned.continued(50, planned) == planned


def test_a_change_after_the_last_good_checkpoint_is_forgotten_with_it():
    planned = Schedule.planned(8, {0: A, 60: B})
    assert planned.continued(50, Schedule.planned(8, {0: A})) == Schedule.planned(8, {0: A})
    assert planned.continued(0, Schedule.planned(4, {0: B})) == Schedule.planned(4, {0: B})


def test_planned_changes_begin_at_their_step():
    schedule = Schedule.planned(8, {0: A, 60: B})
    assert schedule.samples_of(59) == (472, 8)
    assert schedule.at(59).weights == A
    assert schedule.at(60).weights == B
    later = schedule.continued(30, Schedule.planned(4, {0: A, 60: B}))
    assert [(s.first_step, s.first_sample) for s in later.segments] == [
        (0, 0),
        (30, 240),
        (60, 360),
    ]


def test_the_first_step_that_reads_otherwise_is_found():
    old = Schedule.planned(8, {0: A, 60: B})
    later = old.continued(30, Schedule.planned(4, {0: A, 60: B}))
    assert old.first_change(old) is None
    assert later.first_change(old) == old.first_change(later) == 30
    assert old.continued(30, Schedule.planned(8, {0: A})).first_change(old) == 60
    assert old.continued(30, Schedule.planned(8, {0: A, 70: B})).first_change(old) == 60
    # Equal weights in a segment of its own come in another order.
    assert Schedule.planned(8, {0: A, 60: A}).first_change(Schedule.planned(8, {0: A})) == 60


def test_state_is_small_and_read_back():
    schedule, _ = lived([(1, 8, A), (10, 16, B), (10, 8, A)])
    text = json.dumps(schedule.to_json())
    assert len(text) < 1000
    assert Schedule.from_json(json.loads(text)) == schedule
