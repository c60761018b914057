"""``distrain chaos`` on a whole recipe, and what it must not call equal."""

import json
import os

import pytest

from launcher.commands.chaos import FAULTS
from tests.tiny import distrain, write_recipe

KILLS = os.environ.get("DISTRAIN_KILLS", "20")


def chaos(tmp_path, *arguments, timeout_s=1200):
    recipe = write_recipe(tmp_path, steps=40, sft_steps=40)
    ended = distrain(tmp_path / "runs", "chaos", str(recipe), *arguments, "--json",
                     timeout_s=timeout_s)  # fmt: skip
    return ended, json.loads(ended.stdout)["result"]


@pytest.mark.chaos
@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_random_kills_and_other_faults_change_nothing(stage, tmp_path):
    ended, found = chaos(tmp_path, "--stage", stage, "--mean", "6s", "--count", KILLS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (verdict,) = found["stages"]
    assert verdict["equal"]
    assert len(verdict["faults"]) >= int(KILLS)
    came = {fault["kind"] for fault in verdict["faults"]}
    assert came == set(FAULTS.split(",")) - {"nan", "spike"}
    assert [what.split()[0] for what in sorted(verdict["planned"])] == ["nan", "spike"]
    assert not (tmp_path / "runs").exists()  # all of it was in a scratch folder


@pytest.mark.chaos
def test_a_learning_rate_one_part_in_a_million_off_is_found(tmp_path):
    arguments = ("--stage", "pretrain", "--faults", "kill", "--count", "1", "--control")
    ended, found = chaos(tmp_path, *arguments)
    assert ended.returncode == 8
    (verdict,) = found["stages"]
    assert any("train/learning_rate" in difference for difference in verdict["differences"])
    assert any("result: checkpoint is" in difference for difference in verdict["differences"])
