"""The judgement alone: pages are made up, no process runs."""

import random

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.progress_page import (
    CODES,
    STEP_PHASES,
    WAITS_FOR_RANKS,
    WAITS_FOR_THREAD,
    WORK_PHASES,
    PageWriter,
)
from launcher.backends.limits import Settings, usual
from launcher.backends.remembered import read_remembered, remember
from launcher.backends.watchdog import Sight, Watchdog
from tests.launcher.backends.made_up_ranks import Ranks, S, blamed


@pytest.mark.parametrize("phase", STEP_PHASES)
def test_a_rank_without_a_mark_is_found_within_five_seconds_and_not_within_three(ranks, phase):
    ranks.mark(phase, 30)
    ranks.wait(0)
    ranks.now += 3 * S
    assert ranks.judge() is None
    ranks.now += 2 * S - 1
    assert blamed(ranks.judge()) == (1, phase)


def test_a_slow_phase_has_the_time_of_its_own(ranks):
    for number in range(30, 160):
        ranks.step(number, {"data": 6.0})
    assert usual(ranks.pages_read(), "data") == pytest.approx(6.5, rel=0.25)
    ranks.mark("data", 160)
    ranks.wait(0)
    ranks.now += 11 * S
    assert ranks.judge() is None
    ranks.now += 7 * S  # three times as long as ever
    assert blamed(ranks.judge()) == (1, "data")


def test_the_first_two_steps_have_a_limit_of_their_own(tmp_path, monkeypatch):
    ranks = Ranks(tmp_path, monkeypatch, first=100)
    ranks.mark("forward_backward", 100)
    busy = {rank: Sight(still_s=0.0, state="R") for rank in range(2)}
    ranks.now += 1700 * S
    assert ranks.judge(busy) is None
    ranks.now += 200 * S
    assert blamed(ranks.judge(busy)) == (0, "forward_backward")


def test_before_the_first_step_ranks_that_use_no_time_are_found_in_a_minute(tmp_path, monkeypatch):
    ranks = Ranks(tmp_path, monkeypatch)
    ranks.mark("data", 0)
    ranks.wait(0)
    ranks.now += 59 * S
    still = {rank: Sight(still_s=59) for rank in range(2)}
    assert ranks.judge(still) is None, "a file system may be what they wait for"
    ranks.now += 2 * S
    still = {rank: Sight(still_s=61) for rank in range(2)}
    assert blamed(ranks.judge(still)) == (1, "data")
    for state in ("D", "I", "R"):
        assert ranks.judge(still | {1: Sight(61, state=state)}) is None
    assert ranks.judge(still | {1: Sight(still_s=1.0)}) is None
    assert ranks.judge(still, is_alone=False) is None, "another node may compile"


def test_at_the_end_copies_of_metrics_are_waited_for(ranks):
    ranks.mark("ended", 30)
    ranks.wait(1)
    still = {rank: Sight(still_s=30.0) for rank in range(2)}
    ranks.now += 30 * S
    assert ranks.judge(still) is None
    ranks.now += 31 * S
    assert blamed(ranks.judge({rank: Sight(still_s=61.0) for rank in range(2)})) == (0, "ended")


def test_a_collective_that_one_rank_does_not_enter_names_that_rank(ranks):
    ranks.mark("update", 30)
    ranks.wait(0)
    ranks.pages[1].wait_begins()
    ranks.pages[1].wait_ends()
    ranks.mark("data", 31, 1)
    ranks.wait(1)  # in another one, a collective further
    ranks.now += 5 * S
    assert blamed(ranks.judge()) == (0, "update")
    assert "it has begun" in ranks.judge().why


def test_where_all_wait_in_the_same_collective_that_is_said(ranks):
    ranks.wait()
    ranks.now += 5 * S
    assert "all wait in collective" in ranks.judge().why


def test_ranks_that_wait_for_another_node_have_longer(ranks):
    ranks.wait()
    ranks.now += 15 * S
    assert ranks.judge(is_alone=False) is None
    ranks.now += 15 * S
    assert ranks.judge(is_alone=False) is not None


def test_a_stopped_rank_is_named_before_one_that_waits_in_the_devices_collective(ranks):
    ranks.mark("forward_backward", 30)
    ranks.now += 5 * S
    assert blamed(ranks.judge()) == (0, "forward_backward")
    found = ranks.judge({1: Sight(state="T")})
    assert blamed(found) == (1, "forward_backward")
    assert found is not None
    assert "stopped" in found.why


def test_of_two_threads_of_a_rank_the_one_that_ran_last_is_named(ranks):
    save_in_thread(ranks.pages[1], 29)
    for _ in range(40):
        ranks.now += S // 100
        ranks.pages[1].mark_chunk()
    ranks.now += S // 100
    ranks.mark("data", 30)
    ranks.wait(0)
    ranks.now += 5 * S
    assert blamed(ranks.judge()) == (1, "data")


def save_in_thread(page, step):
    """Give the lane of saves to whoever calls; this test has but one thread."""
    page.save_begins(step)
    page._saver = 0  # its marks go to the loop's lane again


def test_a_thread_that_saves_and_sleeps_is_found_while_the_loop_goes_on(ranks, monkeypatch):
    for page in ranks.pages:
        save_in_thread(page, 30)
        for _ in range(40):
            ranks.now += S // 100
            page.mark_chunk()
    for number in range(30, 60):
        ranks.step(number)
        ranks.pages[0].mark_chunk()
    ranks.now += int(4.5 * S)
    ranks.mark("data", 60)
    assert blamed(ranks.judge()) == (1, "write")


def test_the_loop_that_waits_for_its_own_save_is_not_to_blame(ranks):
    for page in ranks.pages:
        save_in_thread(page, 30)
        for _ in range(40):
            ranks.now += S // 100
            page.mark_chunk()
        page.mark("save", 30)
        page.wait_begins(WAITS_FOR_THREAD)
    for _ in range(100):
        ranks.now += S
        for page in ranks.pages:
            page.mark_chunk()
        assert ranks.judge() is None
    ranks.now += 16 * S  # it was marked each second: that is what it takes
    assert blamed(ranks.judge()) == (0, "write")


def test_a_save_that_one_rank_never_begins_is_found(ranks):
    save_in_thread(ranks.pages[0], 30)
    ranks.pages[0]._words[16 + 4] = WAITS_FOR_RANKS
    for number in range(30, 330):
        ranks.step(number)
    found = ranks.judge()
    assert blamed(found) == (1, "update")


def test_what_was_not_seen_is_held_against_nobody(ranks):
    ranks.now += 3600 * S  # suspended, with whoever looks
    assert ranks.judge() is not None
    ranks.since = ranks.now
    assert ranks.judge() is None
    ranks.now += 5 * S
    assert ranks.judge() is not None


def test_time_in_which_no_core_was_free_counts_a_tenth_at_most(ranks):
    ranks.mark("data", 30)
    ranks.now += 6 * S
    starved = {rank: Sight(unscheduled_s=5.0) for rank in range(2)}
    assert ranks.judge(starved) is None
    ranks.now += 40 * S
    starved = {rank: Sight(unscheduled_s=46.0) for rank in range(2)}
    assert ranks.judge(starved) is not None


def test_a_rank_that_is_busy_for_ever_is_named_though_it_lacks_a_core(ranks):
    """The other one waits for it in a collective of the device, which looks like work."""
    ranks.mark("data", 30)
    ranks.mark("forward_backward", 30, 1)
    ranks.now += int(4.5 * S)
    starved = {0: Sight(unscheduled_s=2.5, state="R")}
    assert blamed(ranks.judge(starved)) == (0, "data")
    starved |= {1: Sight(unscheduled_s=2.5, state="R")}
    assert ranks.judge(starved) is None, "the machine may be busy with something else"


def test_a_limit_of_the_user_takes_the_place_of_what_is_learned(ranks):
    ranks.mark("data", 30)
    ranks.now += 7 * S
    dog = Watchdog(Settings(limits_s={"data": 8.0}))
    assert ranks.judge(dog=dog) is None
    ranks.now += 2 * S
    found = ranks.judge(dog=dog)
    assert found is not None
    assert (found.is_set, found.limit_s) == (True, 8.0)
    assert found.usual_s is not None


@pytest.mark.parametrize("seed", range(4))
def test_there_is_no_alarm_in_ten_thousand_clean_steps_with_noise(tmp_path, monkeypatch, seed):
    """Validations and saves become ten times slower than ever; load comes and goes."""
    dice, ranks = random.Random(seed), Ranks(tmp_path, monkeypatch)
    base = {"data": 0.002, "forward_backward": 0.2, "update": 0.02}
    for number in range(2500):
        noise = dice.choice([1, 1, 1, 1, dice.lognormvariate(0, 1.0)])
        for phase in STEP_PHASES:
            ranks.mark(phase, number)
            ranks.now += int(min(base[phase] * noise * dice.lognormvariate(0, 0.5), 3.5) * S)
            assert ranks.judge() is None, (number, phase)
            ranks.wait()
            ranks.go_on()
        slow = 10 if number > 1500 else 1
        for phase, every, marks, longest_s in (("validation", 50, 10, 0.6), ("save", 20, 5, 0.5)):
            if number % every:
                continue
            ranks.mark(phase, number)
            for _ in range(marks):
                ranks.now += int(longest_s * slow * dice.uniform(0.5, 1) * S)
                assert ranks.judge() is None, (number, phase)
                ranks.mark(phase, number)


def test_the_same_with_a_rank_that_stops_in_between_is_an_alarm(ranks):
    ranks.mark("forward_backward", 30)
    ranks.now += 60 * S
    assert ranks.judge() is not None


def test_a_set_limit_below_a_step_is_not_obeyed_and_told_of_as_soon_as_steps_are_known(
    tmp_path, monkeypatch
):
    ranks, dog = Ranks(tmp_path, monkeypatch), Watchdog(Settings(limits_s={"forward_backward": 5}))
    for number in range(40):
        ranks.mark("forward_backward", number)
        ranks.now += int(6.5 * S)
        assert ranks.judge(dog=dog) is None, number
        ranks.step(number)
        told = list(dog.limits.too_short(ranks.pages_read()))
        assert [found.phase for found in told] == ["forward_backward"] * (number > 1), number
    (found,) = told
    assert found.usual_s == pytest.approx(6, rel=0.25)
    text = str(found)
    assert "launch.watchdog.limits.forward_backward: found 5 s; expected more than" in text
    assert "leave it out" in text
    ranks.mark("forward_backward", 40)
    ranks.now += int(20 * S)
    late = ranks.judge(dog=dog)
    assert late is not None, "what is learned holds in its place"
    assert not late.is_set


def test_a_set_limit_holds_from_the_third_step_on(tmp_path, monkeypatch):
    ranks, dog = Ranks(tmp_path, monkeypatch), Watchdog(Settings(limits_s={"data": 5}))
    for number in range(3):
        ranks.step(number, {"data": 30.0 if number == 0 else 0.1})  # it compiles, say
        assert list(dog.limits.too_short(ranks.pages_read())) == []
    ranks.mark("data", 3)
    ranks.now += 6 * S
    found = ranks.judge(dog=dog)
    assert found is not None
    assert found.is_set


BUSY = {rank: Sight(state="R") for rank in range(2)}


def test_a_livelock_in_the_first_step_is_found_by_what_the_others_took(tmp_path, monkeypatch):
    ranks = Ranks(tmp_path, monkeypatch)
    ranks.mark("data", 0)
    ranks.now += 10 * S
    ranks.wait(0)  # rank 1 still makes its batch
    ranks.now += 109 * S
    assert ranks.judge(BUSY) is None, "twelve times ten seconds"
    ranks.now += 2 * S
    assert blamed(ranks.judge(BUSY)) == (1, "data")
    assert ranks.judge(BUSY, is_alone=False) is not None, "nor do other nodes matter"


def test_without_a_rank_that_is_further_the_first_step_has_its_own_limit(tmp_path, monkeypatch):
    ranks = Ranks(tmp_path, monkeypatch)
    ranks.mark("data", 0)
    ranks.now += S
    ranks.mark("forward_backward", 0)  # both compile
    ranks.now += 1700 * S
    assert ranks.judge(BUSY) is None


def test_a_livelock_in_the_second_step_is_found_by_the_first_one(tmp_path, monkeypatch):
    ranks = Ranks(tmp_path, monkeypatch)
    ranks.step(0, {"forward_backward": 20.0})
    ranks.mark("forward_backward", 1)
    ranks.now += 239 * S
    assert ranks.judge(BUSY) is None
    ranks.now += 2 * S
    assert blamed(ranks.judge(BUSY)) == (0, "forward_backward")


@pytest.mark.parametrize(
    ("phase", "found_s"), [("import", 61), ("data", 121), ("restore", 1801), ("save", 1801)]
)
def test_a_livelock_at_the_start_is_found_by_what_earlier_attempts_took(
    tmp_path, monkeypatch, phase, found_s
):
    remembered = {"import": 0.5, "data": 10.0, "restore": 1.0, "save": 1.0}
    ranks, dog = Ranks(tmp_path, monkeypatch), Watchdog(Settings(), remembered)
    ranks.mark(phase, 0)
    ranks.now += (found_s - 2) * S
    assert ranks.judge(BUSY, dog=dog) is None
    ranks.now += 2 * S
    assert blamed(ranks.judge(BUSY, dog=dog)) == (0, phase)


def test_what_an_attempt_took_is_remembered_once_it_has_made_a_step(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run").stage("train")
    folder.path.mkdir(parents=True)
    (tmp_path / "pages").mkdir()
    ranks = Ranks(tmp_path / "pages", monkeypatch)
    ranks.mark("import", 0)
    ranks.now += 3 * S
    ranks.mark("data", 0)
    remember(folder, {}, ranks.pages_read())
    assert read_remembered(folder) == {}
    ranks.step(0, {"data": 7.0})
    ranks.mark("data", 1)
    remember(folder, {"data": 5.0, "import": 4.0}, ranks.pages_read())
    found = read_remembered(folder)
    assert (found["data"], found["import"], found["update"]) == (7.0, 4.0, 0.01)
    folder.watched.write_text('{"longest_s": [1]}')
    assert read_remembered(folder) == {}


@pytest.mark.parametrize("phase", WORK_PHASES)
def test_a_stage_without_steps_is_judged(tmp_path, monkeypatch, phase):
    ranks, page = Ranks(tmp_path, monkeypatch, count=0), PageWriter()
    page.open(tmp_path, 0)
    page.be_judged(dumps=False)
    page.begin_work(phase)
    for _ in range(30):
        ranks.now += 90 * S
        page.mark()
    ranks.now += 119 * S
    still = {0: Sight(still_s=125.0)}
    assert ranks.judge(still) is None
    assert ranks.judge({0: Sight(still_s=125.0, state="D")}) is None
    ranks.now += 2 * S
    assert blamed(ranks.judge(still)) == (0, phase)
    ranks.now += 1600 * S
    busy = {0: Sight(state="R")}
    assert ranks.judge(busy) is None
    ranks.now += 3600 * S
    found = ranks.judge(busy)
    assert (found is None) == (phase == "prepare"), "one call of a library may take any time"
    dog = Watchdog(Settings(limits_s={phase: 7200}))
    assert ranks.judge(busy, dog=dog) is None
    ranks.now += 3600 * S
    assert blamed(ranks.judge(busy, dog=dog)) == (0, phase)


def test_settings_travel_as_text():
    assert Settings.from_text("") == Settings()
    assert Settings.from_text("null") is None
    text = '{"floor_s": 2, "first_s": 60, "limits_s": {"data": 9}}'
    assert Settings.from_text(text) == Settings(2, 60, {"data": 9})


def test_every_limit_names_a_phase():
    assert set(STEP_PHASES) < set(CODES)
