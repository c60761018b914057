"""The text of a job; what its script does: ``test_stage_batch.py``, ``test_phase_batch.py``."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.reading.load import load_site
from distrain.errors import RecipeError
from distrain.runs.folder import RunFolder
from launcher.backends.slurm.jobs import StageJob
from launcher.backends.slurm.script import directive, render_job, slurm_time
from tests.launcher.backends.slurm.batch_jobs import (
    PREPARE,
    PRETRAIN,
    RUN,
    SITE,
    part,
    render,
    render_part,
)

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.mark.parametrize(
    ("name", "stage", "site"),
    [
        ("two_nodes.sbatch", StageJob(PRETRAIN, None, 1, None), SITE),
        ("spare_node.sbatch", StageJob(replace(PRETRAIN, spare_nodes=1), None, 1, None), SITE),
        ("one_process.sbatch", StageJob(PREPARE, None, 1, None), SiteConfig()),
        ("array.sbatch", part("prepare.clean"), SITE),
        ("one_phase.sbatch", part("prepare.plan"), SiteConfig()),
    ],
)
def test_the_script_is_as_it_was_read_and_agreed(name, stage, site):
    """After an intended change: run with DISTRAIN_UPDATE_GOLDEN=1, read the difference."""
    text = render_part(stage, site=site)
    if os.environ.get("DISTRAIN_UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_the_example_site_is_one():
    site = load_site(Path(__file__).parents[4] / "slurm" / "sites" / "example.yaml")
    text = render(PRETRAIN, site=site)
    assert "#SBATCH --partition=gpu\n" in text
    assert "module load cuda/12.8\n" in text


@pytest.mark.parametrize(
    "name",
    [
        "two_nodes.sbatch",
        "spare_node.sbatch",
        "one_process.sbatch",
        "array.sbatch",
        "one_phase.sbatch",
    ],
)
def test_bash_can_read_the_script(name):
    subprocess.run(["bash", "-n", GOLDEN / name], check=True)


def test_a_stage_that_does_not_train_needs_no_fork_server():
    text = render(PREPARE, site=SITE)
    assert "fork_server" not in text
    assert "MASTER_ADDR" not in text
    assert "--gpus" not in text
    assert "#SBATCH --nodes=1\n" in text


def test_a_relative_run_folder_is_refused():
    with pytest.raises(ValueError, match="must be absolute"):
        render(PREPARE, run=RunFolder(Path("runs/mine")))


def test_a_grace_period_as_long_as_the_limit_is_refused():
    launch = LaunchConfig.model_validate({"time_limit": "2m", "grace_period": "2m"})
    with pytest.raises(RecipeError, match=r"Set launch\.grace_period=60s"):
        render_job(StageJob(PREPARE, None, 1, None), RUN, launch, SiteConfig(), "python")


@pytest.mark.parametrize(
    ("seconds", "text"), [(60, "0-00:01:00"), (90, "0-00:01:30"), (360000, "4-04:00:00")]
)
def test_a_duration_is_written_as_slurm_reads_it(seconds, text):
    assert slurm_time(seconds) == text


@pytest.mark.parametrize(
    ("value", "quoted"),
    [("gpu", "gpu"), ("a b", '"a b"'), ('say "x"', '"say \\"x\\""'), ("it's", '"it\'s"')],
)
def test_a_directive_is_quoted_as_sbatch_splits_it(value, quoted):
    assert directive(value) == quoted


def test_the_command_to_go_on_with_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setenv("DISTRAIN_COMMAND", "env/bin/distrain")
    assert "--resume=env/bin/distrain resume " in render(PRETRAIN)
    monkeypatch.delenv("DISTRAIN_COMMAND")
    assert "--resume=distrain resume " in render(PRETRAIN)


def test_an_array_has_the_tasks_and_each_its_share():
    text = render_part(part("prepare.encode"))
    assert "#SBATCH --array=0-7\n" in text
    assert '--phase=encode \\\n  "--share=${SLURM_ARRAY_TASK_ID}/8"' in text
    assert "--array" not in render_part(part("prepare.decide"))
