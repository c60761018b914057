"""``distrain prove`` on a whole run: it holds, its controls fail, and the run is left as it is."""

import json
from hashlib import sha256

import pytest

from distrain.errors import ExitCode
from tests.tiny import distrain, write_recipe

SETTINGS = (
    "pretrain.training.max_steps=16",
    "pretrain.checkpoint.keep_last=3",
    "pretrain.model.dropout=0",  # or losses could not be compared on other ranks
)


def snapshot(root):
    """Every file with its time and content."""
    return {
        path: (path.stat().st_mtime_ns, sha256(path.read_bytes()).hexdigest())
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.chaos
def test_a_run_is_proved_and_one_that_differs_is_not(tmp_path):
    recipe, runs = write_recipe(tmp_path), tmp_path / "runs"
    only = ("--only", "prepare", "--only", "pretrain")
    made = distrain(runs, "run", str(recipe), *SETTINGS, *only)
    assert made.returncode == 0, made.stderr
    before = snapshot(runs)

    asked = ("prove", "tiny", "--steps", "6", "--kills", "2", "--ranks", "2,1,4", "--json")
    proved = distrain(runs, *asked, timeout_s=1500)
    assert proved.returncode == 0, proved.stderr
    result = json.loads(proved.stdout)["result"]
    assert (result["first_step"], result["last_step"], result["proved"]) == (11, 16, True)
    resumed, *killed = result["cases"][:4]
    assert resumed["compared"] == "the run itself: steps 11 to 16 made again bit by bit"
    assert [(case["ranks"], len(case["struck"])) for case in killed] == [(2, 2), (1, 2), (4, 2)]
    assert killed[0]["compared"] == "the twin: bit by bit"
    assert "samples exactly, losses of 3 steps within 1e-06" in killed[1]["compared"]
    controls = result["cases"][4:]
    assert len(controls) == 5
    assert all(case["is_control"] and case["differences"] for case in controls)
    assert snapshot(runs) == before

    # A run of which one step was not what it says.
    metrics = runs / "tiny" / "pretrain" / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    changed = [change_loss(line) for line in lines]
    assert changed != lines
    metrics.write_text("".join(f"{line}\n" for line in changed))
    refuted = distrain(runs, "prove", "tiny", "--steps", "6", "--kills", "0", timeout_s=600)
    assert refuted.returncode == ExitCode.NOT_PROVED, refuted.stderr
    assert "NOT PROVED: resumed" in refuted.stdout
    assert "step 14: train/loss" in refuted.stdout


def change_loss(line):
    record = json.loads(line)
    if record["train/global_step"] == 14 and "train/loss" in record:
        record["train/loss"] += 1e-9
    return json.dumps(record)
