"""``distrain chaos`` on a whole recipe, and what it must not call equal."""

import json
import os
import shutil
from pathlib import Path

import pytest

from launcher.commands.chaos import FAULTS
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
