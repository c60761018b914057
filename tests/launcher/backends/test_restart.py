"""The rule of restarts, row by row: what each backend did before there was one rule."""

import pytest

from launcher.backends.restart import AttemptEnd, Ending, History, Verdict, decide, judge


def a(ending: Ending, *, saved: bool = False) -> AttemptEnd:
    return AttemptEnd(ending, saved)


CRASH, SAVED_CRASH = a("crashed"), a("crashed", saved=True)
YIELD, SAVED_YIELD = a("yielded"), a("yielded", saved=True)

LOCAL = History(max_restarts=1)
QUEUED = History(max_restarts=1, yields_go_on=True)
PHASE = History(max_restarts=1, max_idle_yields=0, yields_go_on=True)


def of(history: History, *attempts: AttemptEnd, **known: bool) -> History:
    return History(attempts, history.max_restarts, history.max_idle_yields, history.yields_go_on,
                   **known)  # fmt: skip


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        # before the first attempt
        (of(LOCAL), "again"),
        (of(QUEUED), "again"),
        (of(QUEUED, asked_to_end=True), "wait"),  # a job that was queued when the user stopped
        (of(PHASE, a("refused")), "refuse"),  # an array task of a stage that has failed
        # the stage's own word
        (of(LOCAL, a("done")), "wait"),
        (of(QUEUED, a("done")), "wait"),
        (of(LOCAL, a("refused")), "refuse"),
        (of(QUEUED, a("refused")), "refuse"),
        (of(QUEUED, a("refused"), asked_to_end=True), "refuse"),
        (of(LOCAL, SAVED_CRASH, a("refused")), "refuse"),
        (of(PHASE, a("stopped")), "wait"),  # nothing to do yet
        # a stop is the user's, a yield goes back to the queue if there is one
        (of(LOCAL, a("stopped")), "wait"),
        (of(QUEUED, a("stopped")), "wait"),
        (of(LOCAL, SAVED_YIELD), "wait"),
        (of(QUEUED, SAVED_YIELD), "again"),
        (of(QUEUED, YIELD), "again"),
        (of(QUEUED, YIELD, YIELD), "give up"),  # a time limit shorter than the start
        (of(QUEUED, YIELD, CRASH), "give up"),
        (of(QUEUED, SAVED_YIELD, SAVED_YIELD, SAVED_YIELD), "again"),
        (of(QUEUED, SAVED_YIELD, asked_to_end=True), "wait"),
        # a phase leaves what it did not do to the job behind it
        (of(PHASE, SAVED_YIELD), "again"),
        (of(PHASE, YIELD), "give up"),
        (of(PHASE, SAVED_YIELD, YIELD), "give up"),
        # crashes
        (of(LOCAL, CRASH), "again"),
        (of(LOCAL, CRASH, CRASH), "give up"),
        (of(QUEUED, CRASH, CRASH), "give up"),
        (of(PHASE, CRASH), "again"),
        (of(PHASE, CRASH, CRASH), "give up"),
        (of(LOCAL, CRASH, SAVED_CRASH, CRASH), "again"),  # a committed step earns new attempts
        (of(LOCAL, CRASH, SAVED_CRASH, CRASH, CRASH), "give up"),
        (of(LOCAL, CRASH, asked_to_end=True), "wait"),  # crashed while it was asked to save
        (of(QUEUED, CRASH, CRASH, asked_to_end=True), "wait"),
        (of(History(max_restarts=0), CRASH), "give up"),
        (of(History(max_restarts=0), SAVED_CRASH), "again"),
        # a lost node, a preemption, a requeue by hand: not the stage's fault, and no merit either
        (of(QUEUED, a("lost")), "again"),
        (of(QUEUED, *[a("lost")] * 9), "again"),
        (of(QUEUED, CRASH, a("lost")), "again"),
        (of(QUEUED, CRASH, a("lost"), CRASH), "give up"),
        (of(QUEUED, CRASH, a("lost", saved=True), CRASH), "give up"),
        (of(PHASE, a("lost")), "again"),
        # what the scheduler has ended, or starts by itself, is not started here
        (of(QUEUED, CRASH, is_taken=True), "wait"),
        (of(QUEUED, CRASH, CRASH, is_taken=True), "wait"),
        (of(QUEUED, SAVED_YIELD, is_taken=True), "wait"),
        (of(QUEUED, a("lost"), is_taken=True), "wait"),
        (of(QUEUED, a("refused"), is_taken=True), "refuse"),
    ],
)
def test_what_becomes_of_a_stage(history: History, verdict: Verdict):
    assert decide(history) == verdict


@pytest.mark.parametrize(
    ("state", "error", "ending"),
    [
        (None, None, "crashed"),
        ({"state": "running", "attempt": 2}, None, "crashed"),
        ({"state": "done", "attempt": 2}, None, "done"),
        ({"state": "done", "attempt": 1}, None, "crashed"),
        ({"state": "stopped", "attempt": 2}, None, "stopped"),
        ({"state": "stopped", "attempt": 2, "requeue": False}, None, "stopped"),
        ({"state": "stopped", "attempt": 2, "requeue": True}, None, "yielded"),
        ({"state": "stopped", "attempt": 1, "requeue": True}, None, "crashed"),
        ({"state": "failed", "attempt": 2}, None, "crashed"),
        ({"state": "running", "attempt": 2}, {"exit_code": 4, "message": "no"}, "refused"),
    ],
)
def test_an_attempt_is_judged_by_its_own_records(state, error, ending):
    assert judge(2, state, error) == ending
