"""What can be proved of a run, and what is refused before anything is copied."""

import fcntl
import shutil

import pytest

from distrain.config.reading.load import dump_resolved, load_recipe
from distrain.errors import NotFoundError, PreflightError, RecipeError
from distrain.runs.folder import RunFolder
from distrain.runs.records import write_json
from distrain.tools import spoil
from launcher.proving.controls import CONTROLS
from launcher.proving.provable import choose_stretch, order
from launcher.proving.prove import Case, lineage_of, word_of
from launcher.proving.stretch import KILLS, Stretch, draw_kills
from tests.tiny import write_recipe


@pytest.mark.parametrize(
    ("saved", "total", "wanted", "found"),
    [
        ([10, 20, 30], 40, 20, (20, 40, 5)),
        ([10, 20, 37], 100, 20, (37, 60, 5)),
        ([15, 20], 20, 20, (15, 20, 1)),
        ([5, 37], 60, 20, (37, 60, 5)),
        ([38], 59, 20, (38, 55, 5)),
        ([0, 5], 7, 3, (0, 3, 1)),
        ([20], 20, 20, None),
        ([], 20, 20, None),
    ],
)
def test_the_newest_checkpoint_with_enough_left_is_the_first_step(saved, total, wanted, found):
    assert choose_stretch(saved, total, wanted) == found


def test_kills_come_from_the_seed_alone_and_fall_within_the_stretch():
    stretch = Stretch("pretrain", 20, 40, 5)
    kills = draw_kills(stretch, 200, "7 2")
    assert kills == draw_kills(stretch, 200, "7 2") != draw_kills(stretch, 200, "8 2")
    assert {kill.step for kill in kills} == set(range(21, 40))
    assert {kill.what for kill in kills} == set(KILLS)
    assert [kill.step for kill in kills] == sorted(kill.step for kill in kills)


def test_a_case_holds_where_nothing_differs_and_a_control_where_something_does():
    assert word_of(Case("killed", 2, "the twin")) == "equal"
    assert word_of(Case("killed", 2, "the twin", differences=["loss"])) == "DIFFERS"
    assert word_of(Case("broken", 2, "the twin", is_control=True)) == "NOT NOTICED"
    assert word_of(Case("broken", 2, "", differences=["loss"], is_control=True)) == "noticed"


@pytest.fixture
def run(tmp_path):
    """The records of a run whose training was stopped at step 5 of 20."""
    found = RunFolder(tmp_path / "runs" / "tiny")
    found.root.mkdir(parents=True)
    found.resolved.write_text(dump_resolved(load_recipe(write_recipe(tmp_path), []).recipe))
    stage = found.stage("pretrain")
    (stage.checkpoints / "step_000005").mkdir(parents=True)
    write_json(stage.state, {"state": "stopped", "attempt": 1, "step": 5, "requeue": False})
    write_json(stage.data, {"max_steps": 20, "computed_on": {"ranks": 2}})
    return found


def ask(run, **settings):
    usual = {"stage": None, "steps": 20, "kills": 3, "ranks": None, "seed": 0}
    return order(run, **(usual | settings))


def test_by_default_its_own_ranks_come_first_and_then_what_fits(run):
    ordered = ask(run)
    assert (ordered.stretch, ordered.own_ranks) == (Stretch("pretrain", 5, 18, 3), 2)
    assert ordered.ranks == (2, 1, 4)
    assert ask(run, ranks=[4]).ranks == (4,)
    assert lineage_of(ordered.recipe, "pretrain") == ["pretrain", "prepare"]
    with pytest.raises(RecipeError, match="global_batch_size"):
        ask(run, ranks=[3])
    with pytest.raises(NotFoundError, match="no such stage"):
        ask(run, stage="absent")
    with pytest.raises(PreflightError, match="kind prepare, which takes no steps"):
        ask(run, stage="prepare")
    with pytest.raises(PreflightError, match="sft of run tiny: found no checkpoint"):
        ask(run, stage="sft")
    with run.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PreflightError, match="that it is running"):
            ask(run)
    write_json(run.stage("pretrain").data, {"max_steps": 6})
    with pytest.raises(PreflightError, match="none has 2 steps left"):
        ask(run)
    shutil.rmtree(run.stage("pretrain").checkpoints)
    with pytest.raises(PreflightError, match="found no checkpoint"):
        ask(run)


def test_nothing_is_broken_outside_of_a_scratch_folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(PreflightError, match="a run that is no scratch copy"):
        spoil.run_command(run, "pretrain", "moment")
    assert set(spoil.SPOILS) | {"skips"} == set(CONTROLS)
