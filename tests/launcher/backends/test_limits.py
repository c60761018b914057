"""Limits of what takes long and says nothing of it: meeting, a file system, a start."""

import pytest

from distrain.runs.progress_page import WAITS_FOR_FILES, WAITS_FOR_RANKS, PageWriter, read_pages
from launcher.backends.limits import Settings
from launcher.backends.watchdog import Sight, Situation, Watchdog
from tests.launcher.backends.made_up_ranks import DOG, Ranks, S, blamed

SAVE_WAITS = 16 + 4  # word of the page, of the thread that saves


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("limits_s", "found_s"), [({}, 60), ({"rendezvous": 300}, 300)])
def test_ranks_that_meet_have_a_minute_or_what_was_set(
    tmp_path, monkeypatch, count, limits_s, found_s
):
    ranks = Ranks(tmp_path, monkeypatch, count=0)
    ranks.pages = [PageWriter() for _ in range(count)]
    for rank, page in enumerate(ranks.pages):
        page.open(tmp_path, rank, count)
        page.be_judged(dumps=False)
        page.mark("rendezvous")
        page.wait_begins()
    dog = Watchdog(Settings(limits_s=limits_s))
    ranks.now += (found_s - 1) * S
    assert ranks.judge(dog=dog) is None
    ranks.now += 2 * S
    found = ranks.judge(dog=dog)
    assert found is not None
    assert (found.lane.phase, found.is_set) == ("rendezvous", bool(limits_s))


@pytest.mark.parametrize(("phase", "is_hung"), [("validation", True), ("evaluate", False)])
def test_what_is_measured_after_the_steps_is_held_to_no_validation(ranks, phase, is_hung):
    """Its rows and its models are others; the control is the phase that was learned."""
    for _ in range(40):
        ranks.mark("validation", 30)
        ranks.now += S // 10
    ranks.mark(phase, 30)
    ranks.now += 60 * S
    assert (ranks.judge() is not None) == is_hung
    pages = ranks.pages_read()
    # On another node all may wait for this one.
    waits = DOG.limits.of_waits(pages, [page.main for page in pages], is_alone=False)
    assert (waits.seconds < 1800) == is_hung
    ranks.now += 1801 * S
    assert blamed(ranks.judge()) == (0, phase)


def test_a_batch_of_a_validation_is_not_held_to_the_tokens_that_are_drawn_there(ranks):
    for seconds in (5.0, 5.0, *[0.02] * 256):
        ranks.mark("validation", 30)
        ranks.now += int(seconds * S)
    ranks.mark("validation", 30)
    ranks.now += 50 * S  # ten times what a batch took
    assert ranks.judge() is None
    ranks.now += 15 * S
    assert blamed(ranks.judge()) == (0, "validation")


def begin_saves(ranks):
    """Let each rank's thread save, with marks that come quickly."""
    for page in ranks.pages:
        page.save_begins(30)
        page._saver = 0  # its marks go to the loop's lane again: this test has but one thread
        for _ in range(40):
            ranks.now += S // 1000
            page.mark_chunk()


def go_on_steps(ranks, seconds):
    """Let the loops make steps, of a second each."""
    for number in range(31, 31 + seconds):
        ranks.mark("data", number)
        ranks.now += S


def test_a_saving_thread_in_a_file_system_has_minutes_and_elsewhere_seconds(ranks):
    begin_saves(ranks)
    ranks.pages[0]._words[SAVE_WAITS] = WAITS_FOR_RANKS
    ranks.pages[1]._words[SAVE_WAITS] = WAITS_FOR_FILES
    go_on_steps(ranks, 599)
    assert ranks.judge() is None
    ranks.now += 2 * S
    ranks.mark("data", 700)
    assert blamed(ranks.judge()) == (1, "write")


def test_a_saving_thread_that_sleeps_elsewhere_has_seconds(ranks):
    begin_saves(ranks)
    ranks.pages[0]._words[SAVE_WAITS] = WAITS_FOR_RANKS
    go_on_steps(ranks, 5)
    assert blamed(ranks.judge()) == (1, "write")


def test_a_limit_that_was_set_for_write_holds_in_a_file_system_too(ranks):
    begin_saves(ranks)
    ranks.pages[1]._words[SAVE_WAITS] = WAITS_FOR_FILES
    ranks.pages[0]._words[SAVE_WAITS] = WAITS_FOR_RANKS
    go_on_steps(ranks, 21)
    found = ranks.judge(dog=Watchdog(Settings(limits_s={"write": 20})))
    assert found is not None
    assert found.is_set


def test_a_save_in_the_loop_may_wait_for_files_on_this_node_or_another(ranks):
    ranks.mark("save", 30)
    ranks.wait()
    ranks.now += 599 * S
    assert ranks.judge(is_alone=False) is None, "another node's rank may wait for its files"
    assert ranks.judge() is not None, "here none does"
    ranks.go_on(1)
    ranks.pages[1].wait_begins(WAITS_FOR_FILES)
    ranks.now += 599 * S
    assert ranks.judge() is None
    ranks.now += 2 * S
    assert blamed(ranks.judge()) == (1, "save")


def test_a_rank_that_is_further_and_has_not_done_that_work_says_nothing_of_it(
    tmp_path, monkeypatch
):
    ranks = Ranks(tmp_path, monkeypatch)
    ranks.wait(1)
    ranks.go_on(1)
    ranks.mark("forward_backward", 0, 0)
    ranks.mark("data", 0, 1)
    assert read_pages(tmp_path)[1].longest_s["forward_backward"] == 0
    ranks.now += 100 * S
    ranks.mark("data", 0, 1)
    assert ranks.judge() is None


@pytest.mark.parametrize("phase", ["restore", "forward_backward"])
def test_a_rank_that_is_stopped_has_seconds_wherever_it_is(tmp_path, monkeypatch, phase):
    """The controls: it is only slowed down; it sleeps, as it may for a file system."""
    ranks = Ranks(tmp_path, monkeypatch, first=100)
    ranks.mark(phase, 100)
    ranks.wait(0)
    ranks.now += 5 * S
    assert ranks.judge({1: Sight(still_s=0.2, state="T")}) is None
    assert ranks.judge({1: Sight(still_s=5.0, state="S")}) is None
    found = ranks.judge({1: Sight(still_s=5.0, state="T")})
    assert blamed(found) == (1, phase)
    assert found is not None
    assert found.limit_s == 4.0


def test_waiting_for_one_of_the_node_is_no_collective(tmp_path, monkeypatch):
    ranks = Ranks(tmp_path, monkeypatch)
    ranks.mark("restore", 0)
    ranks.pages[1].wait_begins(is_collective=False)
    (_, page) = read_pages(tmp_path)
    assert (page.main.collectives, page.main.waits) == (0, WAITS_FOR_RANKS)


@pytest.mark.parametrize("phase", ["prepare", "ranges"])
def test_who_is_busy_where_no_limit_holds_is_told_of_and_not_ended(tmp_path, monkeypatch, phase):
    """The control is a phase that has a limit."""
    ranks = Ranks(tmp_path, monkeypatch, count=1)
    ranks.pages[0].begin_work(phase)
    ranks.now += 1800 * S

    def told():
        situation = Situation(ranks.pages_read(), {}, ranks.now, ranks.since, is_alone=True)
        return [page.rank for page in DOG.busy_without_limit(situation)]

    assert told() == []
    ranks.now += 1 * S
    assert told() == ([0] if phase == "prepare" else [])
    assert (ranks.judge() is None) == (phase == "prepare")
    ranks.mark(phase, 0)
    assert told() == []
