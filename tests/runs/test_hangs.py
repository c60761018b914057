"""A rank that hangs is found, told of, ended and replaced, and the run ends as its twin."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.incidents import read_incidents
from tests.runs.test_kills import assert_equal_to_twin, begin_at
from tests.runs.test_nodes import TwoNodes
from tests.tiny import command, environment, events

HANGING = Path(__file__).parent / "hanging"
FOUND_WITHIN_S = 5.0
STEP = 16


def hanging(kind, step, done):
    """Return the environment of a fault; ``done``: the file that says that it came."""
    return {
        "PYTHONPATH": os.pathsep.join([str(HANGING), os.environ.get("PYTHONPATH", "")]),
        "DISTRAIN_TEST_HANG": f"{kind}:{step}:{done}",
    }


def run_hanging(recipe, run, kind, step, *overrides, stage="pretrain"):
    """Run a stage with a fault; return what its launcher said, and when it hung."""
    done = run.parent / "hung"
    env = environment(run.parent) | hanging(kind, step, done)
    finished = subprocess.run(
        command("run", str(recipe), "--only", stage, *overrides),
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert done.exists(), "the fault never came"
    return finished.stdout + finished.stderr


CASES = {
    # kind: step, phase, what the line of code names, the state of its main thread
    "stop": (STEP, "data", "", "T"),
    "lock": (STEP, "data", "in hold_the_lock", ""),
    "loader": (STEP, "data", "in sleep", ""),
    "livelock": (STEP, "data", "in spin", ""),
    "save": (STEP - 6, "write", "in sleep", ""),
    "collective": (STEP, "forward_backward", "", ""),
    "first": (0, "data", "in sleep", ""),
}


@pytest.mark.hangs
@pytest.mark.parametrize("kind", CASES)
def test_a_rank_that_hangs_is_found_named_and_replaced(kind, twin, tmp_path):
    recipe, twin_run = twin
    run = begin_at("pretrain", twin_run, tmp_path / "runs")
    step, phase, line, state = CASES[kind]
    said = run_hanging(recipe, run, kind, step)
    (hung,) = events(run, "hung")
    incident = json.loads((run / "pretrain" / "incidents" / "1" / "incident.json").read_text())
    assert (hung["rank"], hung["incident"]) == (1, 1)
    assert incident["rank"] == 1
    assert incident["phase"] == phase
    assert incident["host"] == os.uname().nodename
    assert incident["age_s"] <= max(FOUND_WITHIN_S, incident["limit_s"] * 3 / 2.25)
    assert line in incident["line"]
    assert [seen["rank"] for seen in incident["ranks"]] == [0, 1]
    if state:
        assert incident["ranks"][1]["state"] == state
    for seen in incident["ranks"]:
        stacks = (run / "pretrain" / "incidents" / "1" / f"{seen['rank']}.stacks").read_text()
        assert "File" in stacks or seen["state"] == "T"
    assert f"hung: rank 1 on {os.uname().nodename} in phase {phase}" in said
    assert len(events(run, "restarted")) == 1
    assert_equal_to_twin(run, twin_run, ["pretrain"])


@pytest.mark.hangs
@pytest.mark.parametrize("stage", ["prepare", "evaluate", "export"])
def test_a_stage_that_does_not_train_is_judged_too(stage, twin, tmp_path):
    """By a limit that was set: without one it may sleep for two minutes."""
    recipe, twin_run = twin
    run = begin_at(stage, twin_run, tmp_path / "runs")
    said = run_hanging(recipe, run, stage, 0, f"launch.watchdog.limits.{stage}=5s", stage=stage)
    (incident,) = read_incidents(RunFolder(run).stage(stage))
    assert (incident["rank"], incident["phase"]) == (0, stage)
    assert "in sleep" in incident["line"]
    assert f"(limit 5.0 s, launch.watchdog.limits.{stage})" in said
    assert len(events(run, "restarted")) == 1
    assert_equal_to_twin(run, twin_run, [stage])


@pytest.mark.hangs
@pytest.mark.parametrize("kind", ["stop", "livelock"])
def test_a_hang_on_one_of_two_nodes_names_its_rank_with_stacks_of_both(kind, twin, tmp_path):
    recipe, twin_run = twin
    run = begin_at("pretrain", twin_run, tmp_path / "runs")
    nodes = TwoNodes(recipe, run.parent, **hanging(kind, STEP, run.parent / "hung"))
    try:
        nodes.finish()
    finally:
        nodes.close()
    (incident,) = read_incidents(RunFolder(run).stage("pretrain"))
    assert (incident["rank"], incident["phase"]) == (1, "data")
    # torchrun chooses which node has which rank, and either may be the one that finds it.
    (other,) = incident["others"]
    seen = [*incident["ranks"], *other["ranks"]]
    assert sorted(each["rank"] for each in seen) == [0, 1]
    assert (other["node"] == incident["node"]) == (other["ranks"][0]["rank"] == 1)
    assert [each["line"] != "" for each in seen if each["rank"] == 0] == [True]
    folder = run / "pretrain" / "incidents" / "1"
    assert "File" in (folder / "0.stacks").read_text()
    assert (folder / "1.stacks").exists()
    (event,) = events(run, "restarted")
    assert "hung: rank 1 on" in str(event["reason"])
    assert_equal_to_twin(run, twin_run, ["pretrain"])
