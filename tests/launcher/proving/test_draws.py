from itertools import islice, pairwise
from statistics import mean

from distrain.runs.planned_faults import EVERY_RANK
from launcher.proving.draws import FIRST_STEPS, Due, draw, plan_by_step

KINDS = ("kill", "hang", "slow")


def drawn(seed, count=30, mean_s=20.0):
    return list(islice(draw(KINDS, mean_s, seed), count))


def test_the_same_seed_draws_the_same_faults_and_another_one_others():
    first, again, other = drawn("7"), drawn("7"), drawn("8")
    assert [(d.kind, d.wait_s, d.dice.random()) for d in first] == [
        (d.kind, d.wait_s, d.dice.random()) for d in again
    ]
    assert [d.wait_s for d in first] != [d.wait_s for d in other]


def test_no_kind_is_left_out_for_long():
    kinds = [d.kind for d in drawn("7")]
    for begin in range(0, 30, 3):
        assert sorted(kinds[begin : begin + 3]) == sorted(KINDS)


def test_a_fault_that_found_nothing_to_strike_stays_due():
    first, second, third = drawn("7", 3)
    due = Due(iter((first, second, third)))
    assert due.now is None
    due.clock_s = first.wait_s
    assert due.now is first  # the round ends; the next one goes on with it
    assert due.now is first
    due.has_come()
    assert (due.next, due.clock_s) == (second, 0.0)
    due.put_back(first)
    assert due.next is first
    due.has_come()
    assert due.next is second
    due.has_come()
    due.has_come()
    assert due.next is due.now is None


def test_distances_are_exponential_with_that_mean():
    waits = [d.wait_s for d in drawn("7", 3000)]
    assert 19 < mean(waits) < 21
    assert 0.34 < sum(wait > 20 for wait in waits) / 3000 < 0.40  # 1/e


def test_faults_of_a_step_are_apart_and_within_the_stage():
    planned = plan_by_step("sft", ("spike", "nan", "kill"), 20, "7", each=3)
    steps = sorted(fault.step for fault in planned)
    assert [fault.kind for fault in planned].count("nan") == len(planned) / 2 == 3
    assert all(b - a >= 2 for a, b in pairwise(steps))
    assert steps[0] >= 2
    assert steps[-1] <= 20
    assert {fault.rank for fault in planned if fault.kind == "spike"} == {EVERY_RANK}
    assert planned == plan_by_step("sft", ("nan", "spike"), 20, "7", each=3)
    assert planned != plan_by_step("sft", ("nan", "spike"), 20, "8", each=3)


def test_a_stage_of_unknown_length_has_them_early_and_a_short_one_fewer():
    assert max(f.step for f in plan_by_step("sft", ("nan",), None, "7", each=9)) <= FIRST_STEPS
    assert [fault.step for fault in plan_by_step("sft", ("nan", "spike"), 2, "7")] == [2]
    assert plan_by_step("sft", ("kill",), 20, "7") == []
