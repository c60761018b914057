"""``distrain chaos`` on a whole recipe, and what it must not call equal."""

import json
import os
import shutil
from pathlib import Path

import pytest

from distrain.runs.folder import RunFolder
from launcher import planning
from launcher.commands.chaos import FAULTS
from launcher.proving.blows import BLOWS
from launcher.proving.chaos import ON_ONE_MACHINE, Chaos, ChaosSettings
from tests.tiny import distrain, write_recipe

KILLS = os.environ.get("DISTRAIN_KILLS", "20")


def chaos(tmp_path, *arguments, timeout_s=2400):
    recipe = write_recipe(tmp_path, steps=40, sft_steps=40)
    ended = distrain(tmp_path / "runs", "chaos", str(recipe), *arguments, "--json",
                     timeout_s=timeout_s)  # fmt: skip
    return ended, json.loads(ended.stdout)["result"]


@pytest.mark.chaos
def test_random_kills_and_other_faults_change_nothing(tmp_path):
    ended, found = chaos(tmp_path, "--mean", "3s", "--count", KILLS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [verdict["stage"] for verdict in found["stages"]] == ["pretrain", "sft"]
    for verdict in found["stages"]:
        assert verdict["equal"]
        assert len(verdict["faults"]) >= int(KILLS)
        came = {fault["kind"] for fault in verdict["faults"]}
        assert came == set(FAULTS.split(",")) - {"nan", "spike"}
        assert [what.split()[0] for what in sorted(verdict["planned"])] == ["nan", "spike"]
    assert not (tmp_path / "runs").exists()  # all of it was in a scratch folder


@pytest.mark.chaos
def test_what_random_kills_must_not_hide_is_found(tmp_path):
    """A learning rate one part in a million off."""
    ended, found = chaos(tmp_path, "--stage", "pretrain", "--count", "0", "--control")
    assert ended.returncode == 8
    (verdict,) = found["stages"]
    assert any("train/learning_rate" in difference for difference in verdict["differences"])
    assert any("result: checkpoint is" in difference for difference in verdict["differences"])
    shutil.rmtree(Path(verdict["folder"]).parents[1])  # which is kept for whoever looks into it


@pytest.mark.chaos
@pytest.mark.parametrize(("does", "is_kept"), [("hang", True), ("kill-rank", False)])
def test_a_hang_that_no_watchdog_found_does_not_pass(tmp_path, monkeypatch, does, is_kept):
    """The control: the rank is killed in its place, and the run ends as its twin all the same."""
    monkeypatch.setitem(BLOWS, "hang", BLOWS[does])
    recipe = str(write_recipe(tmp_path, steps=40))
    loaded = planning.load(recipe, list(ON_ONE_MACHINE))
    plan = planning.plan_recipe(loaded.recipe, RunFolder(tmp_path / loaded.recipe.name))
    settings = ChaosSettings(("hang",), mean_s=0.2, stages=("pretrain",), count=1, in_steps=True)
    (verdict,) = Chaos(recipe, [], plan, settings, tmp_path, print).run()
    assert [fault.kind for fault in verdict.faults] == ["hang"]
    assert any("an incident that names it" in each for each in verdict.differences) != is_kept
    assert len(verdict.differences) == int(not is_kept)
