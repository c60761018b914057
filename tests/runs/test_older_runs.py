"""Runs that older versions left are resumed, fine-tuned, measured and exported by this one.

How such a folder is made is said in ``tests/runs/older/make.py``.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.runs.older.figures import differences, figures
from tests.tiny import distrain, environment, events

OLDER = Path(__file__).parent / "older"
ROOT = OLDER.parents[2]
VERSIONS = sorted(path.parent.name for path in OLDER.glob("*/expected.json"))


def expected_of(version: str) -> dict[str, float]:
    losses: dict[str, float] = json.loads((OLDER / version / "expected.json").read_text())
    return losses


def copy_of(version: str, folder: Path) -> Path:
    """Copy what the version left, with the times of a fresh checkout; return the run's folder."""
    for source in (OLDER / "corpus", OLDER / version / "runs"):
        shutil.copytree(source, folder / source.name, copy_function=shutil.copy)
    return folder / "runs" / "kept"


def assert_loads(model: Path) -> None:
    assert json.loads((model / "config.json").read_text())["model_type"] == "llama"
    assert json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    tensors = load_file(model / "model.safetensors")
    assert tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_there_is_a_run_of_an_older_version():
    assert "0.1.0" in VERSIONS


@pytest.mark.runs
@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_an_older_version_goes_on_to_the_end(version, tmp_path, monkeypatch):
    run = copy_of(version, tmp_path)
    kept_step = json.loads((run / "pretrain" / "state.json").read_text())["step"]
    kept_lines = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    monkeypatch.chdir(tmp_path)  # the recipe's paths count from here
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)

    ended = distrain(run.parent, "resume", "kept")
    assert ended.returncode == 0, ended.stdout + ended.stderr

    (resumed,) = events(run, "resumed")
    assert (resumed["stage"], resumed["step"]) == ("pretrain", kept_step)
    lost = resumed["lost_records"]
    assert isinstance(lost, int)
    assert lost > 0  # it was killed
    lines = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    assert lines[: len(kept_lines) - lost] == kept_lines[:-lost]
    assert differences(figures(run), expected_of(version)) == []

    exported = run / "export" / "huggingface"
    assert_loads(exported)
    assert_loads(exported / "base")
    assert (exported / "adapter" / "adapter_model.safetensors").is_file()
    completed = distrain(run.parent, "generate", "kept", "def ", "--max-new-tokens=4")
    assert completed.returncode == 0, completed.stderr


SRUN = """#!/bin/bash
while [ "$1" != bash ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "JobId=5 JobState=RUNNING"
"""


@pytest.mark.seams
@pytest.mark.parametrize("version", VERSIONS)
def test_a_script_that_an_older_version_queued_ends_its_stage(version, tmp_path, monkeypatch):
    run = copy_of(version, tmp_path)
    text = (OLDER / version / "pretrain.sbatch").read_text()
    script = tmp_path / "pretrain.sbatch"
    script.write_text(
        text.replace("/opt/venv/bin/python", sys.executable).replace("/runs/kept", str(run))
    )
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    slurm = {"SLURM_JOB_ID": "5", "SLURM_JOB_NODELIST": "localhost"}
    env = environment(run.parent) | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    ended = subprocess.run(
        ["bash", script], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads((run / "pretrain" / "state.json").read_text())["state"] == "done"
    expected = {n: loss for n, loss in expected_of(version).items() if n.startswith("pretrain")}
    assert expected
    assert differences(figures(run, ["pretrain"]), expected) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_figure_that_is_another_one_or_missing_is_found(version):
    expected = expected_of(version)
    assert differences(expected, expected) == []
    for name, value in expected.items():
        (found,) = differences(expected | {name: value + 1e-3}, expected)
        assert found.startswith(f"{name}: ")
        assert differences(expected | {name: float("nan")}, expected)
        rest = {other: expected[other] for other in expected if other != name}
        assert differences(rest, expected) == [f"{name}: missing"]
