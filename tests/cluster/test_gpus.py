"""Jobs of drawn recipes on a real Slurm: which ranks start, and which GPUs they are given."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest

from distrain.runs.folder import RunFolder
from launcher.backends.protocol import SubmittedJob
from launcher.backends.slurm.backend import recorded_jobs
from launcher.backends.slurm.client import Slurm
from tests.cluster.real_slurm import Cluster, install_runtime, wait_until
from tests.launcher.backends.slurm.job_scripts import (
    Case,
    complaints,
    drawn,
    read_script,
    scripts_of,
)
from tests.tiny import distrain, write_recipe

pytestmark = pytest.mark.slurm

JOBS = 20
NODE_GPUS = 2
KINDS = ("pretrain", "sft", "pretrain", "evaluate", "sft", "prepare.clean", "pretrain", "export")
"""Which job of a recipe is started, in turns."""


@dataclass(frozen=True)
class Started:
    """A job in the queue, with the recipe that it is of."""

    case: Case
    job: SubmittedJob
    id: str
    run: Path

    def ranks(self) -> list[dict[str, int | str]]:
        """Return what each process that started said."""
        return [json.loads(path.read_text()) for path in (self.run / "ranks").glob("*.json")]


def fitting(python: str) -> Iterator[tuple[Case, str]]:
    """Yield recipes that this cluster can run, and the job to start of each."""
    number = 0
    for case in drawn(seed=3, site_gpus=(0, NODE_GPUS, NODE_GPUS), nodes=4):
        kind = KINDS[number % len(KINDS)]
        stage, _, phase = kind.partition(".")
        is_there = stage in case.recipe["stages"] and (
            not phase or case.launch["prepare_tasks"] > 1
        )
        if case.is_a_mismatch or not is_there:
            continue
        number += 1
        site = {k: v for k, v in case.site.items() if k not in ("account", "partition", "qos")}
        site["python"] = python
        yield replace(case, site=site), kind


def start(case: Case, kind: str, folder: Path) -> Started:
    folder.mkdir()
    plan = case.plan(folder)
    (job,) = (job for job in scripts_of(plan) if job.stage == kind)
    job.script.parent.mkdir(parents=True)
    job.script.write_text(job.text)
    plan.run.stage(kind.partition(".")[0]).logs.mkdir(parents=True)
    return Started(case, job, Slurm().submit(job.script), plan.run.root)


def test_twenty_drawn_jobs_start_a_rank_for_each_gpu_that_they_hold(
    cluster: Cluster, tmp_path, monkeypatch
):
    python = install_runtime(tmp_path / "runtime", "count_ranks.py")
    monkeypatch.chdir(tmp_path)  # jobs start here, without the package of this checkout
    cases = islice(fitting(python), JOBS)
    jobs = [start(case, kind, tmp_path / str(n)) for n, (case, kind) in enumerate(cases)]
    wait_until(lambda: not any(cluster.job(job.id).is_live for job in jobs), patience_s=400)
    held = 0
    for job in jobs:
        assert cluster.job(job.id).state == "COMPLETED", job.job.text
        asked = read_script(job.job.text)
        assert complaints(job.case, job.job) == []
        ranks = job.ranks()
        assert len(ranks) == asked.processes
        assert {rank["gpus"] for rank in ranks} == {asked.gpus_per_node}
        on_nodes = Counter(rank["node"] for rank in ranks)
        if asked.array == 1:
            assert len(on_nodes) == asked.nodes
            assert set(on_nodes.values()) == {asked.processes_per_node}
            assert {rank["world_size"] for rank in ranks} == {asked.processes}
        held += asked.gpus
    assert held > JOBS, "most of them on GPUs"


def test_what_sbatch_would_take_from_the_environment_is_named_and_does_not_reach_a_job(
    cluster: Cluster, tmp_path, monkeypatch
):
    monkeypatch.setenv("SBATCH_JOB_NAME", "theirs")
    script = tmp_path / "plain.sbatch"
    script.write_text("#!/bin/bash\n#SBATCH --job-name=ours\n")
    plain = cluster.slurm("sbatch", "--parsable", "--hold", str(script)).strip()
    assert job_name_of(cluster, plain) == "theirs", "it overrides a script"
    recipe = write_recipe(tmp_path, processes=1, steps=9)
    flags = ("--only", "prepare", "launch.backend=slurm")
    submitted = distrain(tmp_path / "runs", "submit", str(recipe), *flags)
    assert submitted.returncode == 0, submitted.stderr
    (job,) = recorded_jobs(RunFolder(tmp_path / "runs" / "tiny")).values()
    assert job_name_of(cluster, job) == "tiny.prepare"
    assert "SBATCH_JOB_NAME is ignored" in submitted.stderr


def job_name_of(cluster: Cluster, job: str) -> str:
    shown = cluster.slurm("scontrol", "show", "job", "--oneliner", job)
    return next(w.partition("=")[2] for w in shown.split() if w.startswith("JobName="))
