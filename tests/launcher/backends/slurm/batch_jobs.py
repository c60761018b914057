"""Rendered jobs, and their scripts started with srun and scontrol replaced by lines of shell."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.layout import Layout
from distrain.runs.folder import RunFolder
from launcher.backends.slurm.jobs import StageJob, jobs_of
from launcher.backends.slurm.script import render_job
from launcher.plan import StagePlan

LAUNCH = LaunchConfig.model_validate(
    {"backend": "slurm", "nodes": 2, "time_limit": "1d", "grace_period": "5m"}
)
PREPARE = StagePlan("prepare", "prepare", (), 1, 1, None, None, None)
PRETRAIN = StagePlan(
    "pretrain", "pretrain", ("prepare",), 2, 4, 2, Layout("fsdp", 2, 1, 8), accumulation=1,
    gpus_per_node=4,
)  # fmt: skip
SHARED_PREPARE = replace(PREPARE, tasks=8)
RUN = RunFolder(Path("/shared/group a/runs/llama-125m"))
SITE = SiteConfig.model_validate(
    {
        "account": "nlp",
        "partition": "gpu",
        "qos": "normal",
        "gpus_per_node": 4,
        "cpus_per_task": 32,
        "exclusive": True,
        "setup": ["module load cuda/12.8", "ulimit -n 65536"],
        "env": {"NCCL_SOCKET_IFNAME": "ib0", "NOTE": "it's $HOME"},
    }
)


def render(stage: StagePlan, run: RunFolder = RUN, site: SiteConfig | None = None) -> str:
    return render_part(StageJob(stage, None, 1, None), run, site)


def render_part(
    job: StageJob,
    run: RunFolder = RUN,
    site: SiteConfig | None = None,
    python: str = "/opt/venv/bin/python",
    **launch: object,
) -> str:
    return render_job(job, run, LAUNCH.model_copy(update=launch), site or SiteConfig(), python)


def part(name: str) -> StageJob:
    """One of the jobs of a prepare stage over eight tasks."""
    (found,) = (job for job in jobs_of([SHARED_PREPARE]) if job.name == name)
    return found


SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show job") echo "JobId=5 JobState=$JOB_STATE Reason=None" ;;
  "show hostnames") echo localhost ;;
  requeue*)
    echo "requeue${ARRAY:+:$2}" >>"$CALLS"
    [ "$REQUEUE_CODE" = 0 ] || echo "is disabled" >&2
    exit "$REQUEUE_CODE" ;;
esac
"""
SRUN = """#!/bin/bash
echo srun >>"$CALLS"
[ -z "$RECORD" ] || echo "$RECORD" >"$STAGE/state.json"
[ -z "$ERROR" ] || echo "$ERROR" >"$STAGE/error.json"
[ -z "$RANGE" ] || { mkdir -p "$STAGE/work" && touch "$STAGE/work/_$RANGE.json"; }
[ -z "$SIGNAL" ] || { kill -s "$SIGNAL" $PPID; exec sleep 1 >/dev/null 2>&1; }
[ -z "$SAVES" ] || mkdir -p "$STAGE/checkpoints/step_$SAVES"
exit "$SRUN_CODE"
"""
ANSWERS = {
    "JOB_STATE": "RUNNING",
    "REQUEUE_CODE": "0",
    "SRUN_CODE": "0",
    "RECORD": "",
    "ERROR": "",
    "SAVES": "",
    "RANGE": "",  # finishes this one
    "SIGNAL": "",  # its script gets this one
}


class Job:
    """One start of a rendered script, with chosen answers of Slurm and of the stage."""

    def __init__(
        self,
        folder: Path,
        job: StageJob | None = None,
        site: SiteConfig | None = None,
        python: str = sys.executable,
        max_restarts: int = LAUNCH.max_restarts,
        node_checks: str = "off",
    ) -> None:
        self.run = RunFolder(folder / 'my 100% "run"\'s')
        self.stage = self.run.stage("prepare")
        self.calls = folder / "calls"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.script = folder / "job.sbatch"
        job = job or StageJob(PREPARE, None, 1, None)
        launch = {"max_restarts": max_restarts, "node_checks": node_checks}
        text = render_part(job, self.run, site, python, **launch)
        self.script.write_text(text)
        self.stage.path.mkdir(parents=True)

    def run_nodes(self) -> None:
        """Let srun run what the one node would, instead of answering for it."""
        text = SRUN.replace('exit "$SRUN_CODE"', '"${@: -3}"')
        (self.bin / "srun").write_text(text)

    def start(self, **answers: str) -> tuple[int, list[str]]:
        """Return the exit code, and which of srun and requeue were called."""
        self.calls.unlink(missing_ok=True)
        env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "5",
            "SLURM_JOB_NODELIST": "localhost",
            "CALLS": str(self.calls),
            "STAGE": str(self.stage.path),
            **ANSWERS,
            **answers,
        }
        done = subprocess.run(
            ["bash", self.script], env=env, capture_output=True, text=True, check=False
        )
        self.output = done.stdout + done.stderr
        calls = self.calls.read_text().split() if self.calls.exists() else []
        return done.returncode, calls


def state(word: str, *, requeue: bool = False) -> str:
    return json.dumps({"state": word, "attempt": 1, "step": 3, "requeue": requeue}, indent=1)
