"""A prepare stage as two arrays on a real Slurm: the bytes of a local one, whatever happens."""

import hashlib
import json
import signal
import sysconfig
import time
from pathlib import Path

import psutil
import pytest

from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.phases import PrepareProgress, prepare_progress
from launcher.backends.slurm.backend import recorded_jobs
from tests.cluster.real_slurm import PATIENCE_S, Cluster, wait_until
from tests.tiny import distrain

pytestmark = pytest.mark.slurm

TASKS = 3
RANGES = 30
RECIPE = """\
name: texts
stages:
  prepare:
    kind: prepare
    data:
      source: {{kind: files, paths: ["{corpus}"]}}
      range_bytes: {range_bytes}
      workers: 1
      keep_cleaned: true
      dedup: {{minhash: {{}}}}
    tokenizer: {{vocab_size: 512}}
"""
SITE = "exclusive: true\n"  # one task a node, so that a node takes one task with it
OF_THE_RUN = {"state.json", "result.json", "stage.lock"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The modules of the standard library, in some thirty ranges."""
    folder = tmp_path_factory.mktemp("recipe")
    corpus = folder / "corpus"
    corpus.mkdir()
    for module in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        (corpus / module.name).write_bytes(module.read_bytes())
    size = sum(file.stat().st_size for file in corpus.iterdir())
    (folder / "site.yaml").write_text(SITE)
    path = folder / "texts.yaml"
    path.write_text(RECIPE.format(corpus=corpus, range_bytes=size // RANGES))
    return path


@pytest.fixture(scope="module")
def twin(recipe):
    """The stage as one process on this machine makes it."""
    runs = recipe.parent / "runs"
    finished = distrain(runs, "run", str(recipe))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return RunFolder(runs / "texts").stage("prepare")


class ArrayRun:
    """The recipe with three tasks, queued."""

    def __init__(self, cluster: Cluster, recipe: Path, runs: Path) -> None:
        self.cluster = cluster
        self.runs = runs
        self.run = RunFolder(runs / "texts")
        self.folder = self.run.stage("prepare")
        self.command = (
            *("submit", str(recipe), "launch.backend=slurm", f"launch.prepare_tasks={TASKS}"),
            f"launch.site={recipe.parent / 'site.yaml'}",
        )
        self.submit()

    def submit(self) -> None:
        submitted = distrain(self.runs, *self.command)
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        self.jobs = recorded_jobs(self.run)

    def hold_task_1(self, phase: str, first: Path) -> str:
        """Stop the process of task 1 once it has finished the first of its ranges."""
        task = f"{self.jobs[f'prepare.{phase}']}_1"
        wait_until(lambda: self.process(task) is not None)
        process = self.process(task)
        assert process is not None
        deadline = time.monotonic() + PATIENCE_S
        while not first.exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        return task

    def process(self, task: str) -> psutil.Process | None:
        """Find the runtime of a task, where its node is a namespace of this machine."""
        job, _, number = task.partition("_")
        for process in psutil.process_iter():
            try:
                env, command = process.environ(), process.cmdline()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            is_runtime = command[1:3] == ["-m", "distrain"]
            if is_runtime and (env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")) == (
                job,
                number,
            ):
                return process
        return None

    def progress(self) -> PrepareProgress:
        progress = prepare_progress(self.folder)
        assert progress is not None
        return progress

    def log(self, job: str) -> str:
        return (self.folder.logs / f"slurm-{job}.log").read_text()

    def finish(self) -> None:
        """Wait for the end, which must be a good one."""
        end = self.jobs["prepare"]
        wait_until(lambda: not self.cluster.job(end).is_live, 2 * PATIENCE_S)
        assert self.cluster.job(end).state == "COMPLETED", self.log(end)


def content_of(folder: StageFolder) -> dict[str, str]:
    """Every file of a stage by its hash, but for what tells of the run itself."""
    result = json.loads(folder.result.read_text()) | {"seconds": 0}
    files = {
        str(file.relative_to(folder.path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.path.rglob("*"))
        if file.is_file() and file.name not in OF_THE_RUN and file.parent != folder.logs
    }
    return files | {"result": json.dumps(result)}


def test_tasks_that_die_with_their_node_or_are_cancelled_change_no_byte(
    cluster: Cluster, recipe, twin, tmp_path
):
    run = ArrayRun(cluster, recipe, tmp_path)
    first = run.folder.cleaned / "main" / "_00001.json"
    task = run.hold_task_1("clean", first)
    cleaned_at = first.stat().st_mtime_ns
    # The other two go on without it.
    wait_until(lambda: run.progress().cleaned >= 2 * run.progress().ranges // TASKS)
    assert run.progress().cleaned < run.progress().ranges
    status = distrain(tmp_path, "status", "texts").stdout
    assert f"running  -     -     -      -    0         clean: {run.progress()}" in status
    cluster.crash(cluster.job(task).nodes)
    wait_until(lambda: run.progress().cleaned == run.progress().ranges)
    assert cluster.job(task).restarts == 1
    assert " are finished" in run.log(task)
    assert first.stat().st_mtime_ns == cleaned_at

    task = run.hold_task_1("encode", run.folder.encoded / "main" / "00001.json")
    cluster.slurm("scancel", task)
    run.finish()
    assert cluster.job(task).state == "CANCELLED"
    assert " are finished" in run.log(run.jobs["prepare"]), "the stage did what the task left"
    assert content_of(run.folder) == content_of(twin)


def test_a_stop_ends_all_jobs_and_submitting_again_goes_on(
    cluster: Cluster, recipe, twin, tmp_path
):
    run = ArrayRun(cluster, recipe, tmp_path)
    first = run.folder.cleaned / "main" / "_00001.json"
    run.hold_task_1("clean", first)
    cleaned_at = first.stat().st_mtime_ns
    stopped = distrain(tmp_path, "stop", "texts")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    wait_until(lambda: not cluster.slurm("squeue", "-h"))
    assert run.progress().cleaned < run.progress().ranges
    assert "not started" in run.log(run.jobs["prepare"])
    run.submit()
    run.finish()
    assert first.stat().st_mtime_ns == cleaned_at
    assert content_of(run.folder) == content_of(twin)
