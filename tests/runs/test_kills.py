"""A run that was killed, anywhere, ends bit for bit as its twin that never was."""

import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.runs.processes import (
    assert_no_orphans,
    family,
    kill,
    ranks_of,
    start,
    wait_for_stage,
)
from tests.tiny import distrain, events, exact_records, tensor_digests

EQUAL_FILES = {
    "prepare": ("tokenizer.json", "train/main/manifest.json", "test/main/manifest.json"),
    "evaluate": ("result.json",),
    "export": ("huggingface/model.safetensors", "huggingface/adapter/adapter_model.safetensors"),
}
STAGES = ("prepare", "pretrain", "sft", "evaluate", "export")


def assert_equal_to_twin(run: Path, twin_run: Path, stages: Sequence[str] = STAGES) -> None:
    for stage in stages:
        if stage in ("pretrain", "sft"):
            assert exact_records(run, stage) == exact_records(twin_run, stage), stage
            assert tensor_digests(run, stage) == tensor_digests(twin_run, stage), stage
        for name in EQUAL_FILES.get(stage, ()):
            path = Path(stage, name)
            assert (run / path).read_bytes() == (twin_run / path).read_bytes(), path


KILLS = int(os.environ.get("DISTRAIN_KILLS", "20"))
LONGEST_WAIT_S = {"prepare": 1.0, "evaluate": 3.0, "export": 3.0}
"""Between the start of a stage and the blow, at most: about as long as the stage takes. Stages that
train are struck by ``distrain chaos`` (``test_chaos.py``)."""


def kill_once(run: Path, recipe: Path, stage: str, dice: random.Random) -> bool:
    """Start the run, let the stage begin, and kill; False if the run ended before the blow.

    Half of the blows hit the launcher, so the whole job; the others one process of it.
    """
    launcher = start(run.parent, recipe, "--only", stage)
    if not wait_for_stage(run, stage, launcher):
        return False
    time.sleep(dice.uniform(0, LONGEST_WAIT_S[stage]))
    processes = family(launcher)
    if not processes:
        return False
    if dice.random() < 0.5:
        kill(processes[:1])
    else:
        kill([dice.choice(processes)])
        time.sleep(dice.uniform(0, 2))
        processes += family(launcher)[1:]
        kill(processes[:1])
    launcher.wait(timeout=10)
    assert_no_orphans(processes)
    return True


@pytest.mark.chaos
def test_a_kill_in_each_stage_changes_nothing(twin, tmp_path):
    recipe, twin_run = twin
    run = tmp_path / "runs" / "tiny"
    for stage in STAGES:
        launcher = start(run.parent, recipe)
        assert wait_for_stage(run, stage, launcher), stage
        time.sleep(random.Random(stage).uniform(0.2, 1.5))
        processes = family(launcher)
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.wait()
        assert_no_orphans(processes)
    finished = distrain(run.parent, "run", str(recipe))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_equal_to_twin(run, twin_run)


def test_a_killed_rank_is_replaced_without_a_word_from_the_user(twin, tmp_path):
    recipe, twin_run = twin
    run = tmp_path / "runs" / "tiny"
    launcher = start(run.parent, recipe)
    assert wait_for_stage(run, "pretrain", launcher)
    while not (run / "pretrain" / "checkpoints" / "step_000005").exists():
        time.sleep(0.05)
    ranks = ranks_of(family(launcher))
    assert [rank.name() for rank in ranks] == ["rank 0", "rank 1"]
    kill(ranks[-1:])
    assert launcher.wait(timeout=300) == 0
    assert events(run, "restarted")
    assert events(run, "resumed")
    assert_equal_to_twin(run, twin_run)


def test_a_second_run_of_a_finished_recipe_does_nothing(twin):
    recipe, twin_run = twin
    before = (twin_run / "pretrain" / "metrics.jsonl").read_bytes()
    finished = distrain(twin_run.parent, "run", str(recipe))
    assert finished.returncode == 0
    assert (twin_run / "pretrain" / "metrics.jsonl").read_bytes() == before


def begin_at(stage: str, twin_run: Path, folder: Path) -> Path:
    """Copy the twin as it was before it came to ``stage``."""
    run = folder / "tiny"
    shutil.copytree(twin_run, run)
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(run / later)
    (run / "test_opened.json").unlink()
    return run


@pytest.mark.chaos
@pytest.mark.parametrize("stage", LONGEST_WAIT_S)
def test_random_kills_change_nothing(stage, twin, tmp_path):
    recipe, twin_run = twin
    dice = random.Random(f"chaos {stage}")
    blows, runs = 0, 0
    while blows < KILLS:  # a stage that gets through between two blows is compared and begun anew
        runs += 1
        run = begin_at(stage, twin_run, tmp_path / f"runs-{runs}")
        while blows < KILLS and kill_once(run, recipe, stage, dice):
            blows += 1
        finished = distrain(run.parent, "run", str(recipe), "--only", stage)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert_equal_to_twin(run, twin_run, [stage])
