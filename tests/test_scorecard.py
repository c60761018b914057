"""What a scorecard counts, keeps and writes; its draws are ``make scorecard``."""

import pytest

from benchmarks.scorecard import table
from benchmarks.scorecard.__main__ import count_in, write_recipe
from benchmarks.scorecard.cases import CASES, Case
from benchmarks.scorecard.state import State
from launcher import planning
from launcher.proving.blows import BLOWS
from launcher.proving.chaos import StageVerdict
from launcher.proving.draws import BY_STEP
from launcher.proving.rounds import Struck

KILLED = Case("1", "one rank killed", ("kill-rank",))


def verdict(count, *differences):
    hung = {"event": "hung", "age_s": 4.5}
    faults = [Struck("hang", "rank 1", 3, 1.0, events=[hung], lost_s=2.0 + n) for n in range(count)]
    return StageVerdict("pretrain", 9, 5.0, {}, [faults], [4.0], list(differences))


def test_a_draw_of_a_run_that_differs_does_not_pass(tmp_path):
    count_in(State(tmp_path / "state"), KILLED, verdict(3))
    again = State(tmp_path / "state")  # another call, which goes on
    count_in(again, KILLED, verdict(2, "step 3 has no record"))
    tally = State(tmp_path / "state").of("1")
    assert (tally.drawn, tally.passed) == (5, 3)
    assert (tally.problems, tally.found_s) == (["step 3 has no record"], [4.5] * 5)
    assert "| 1 | one rank killed | 3/5 | 4.5, 4.5 | 3.0, 4.0 | 4.0 |" in table.text_of(again, 20)


def test_faults_of_a_step_are_the_draws_of_their_case(tmp_path):
    found = verdict(1)
    found.planned = {f"nan at step {step}": "not applied on any rank" for step in (4, 6)}
    state = State(tmp_path / "state")
    count_in(state, Case("34a", "no numbers", ("nan", "kill-rank"), each=2), found)
    assert (state.of("34a").drawn, state.of("34a").passed) == (2, 2)


def test_the_page_keeps_what_is_around_the_table(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert table.BEGIN in table.PAGE.read_text()
    monkeypatch.setattr(table, "PAGE", page)
    for text in ("new", "newer"):
        table.write_page(text)
    assert page.read_text() == f"before\n{table.BEGIN}\nnewer\n{table.END}\nafter\n"


def test_what_was_not_run_is_said_to_be(tmp_path):
    text = table.text_of(State(tmp_path / "state"), 20)
    assert text.count("| not run |") == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_every_case_is_one_that_can_be_drawn(case, tmp_path, monkeypatch):
    assert set(case.kinds) <= BLOWS.keys() | BY_STEP.keys()
    assert bool(case.each) == bool(set(case.kinds) & BY_STEP.keys())
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    planning.load(str(write_recipe(tmp_path)), list(case.overrides))
