"""The text of a stage's job, and what its script does; on a real Slurm: ``tests/cluster``."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distrain.config.launch import LaunchConfig, SiteConfig
from distrain.config.layout import Layout
from distrain.config.reading.load import load_site
from distrain.errors import RecipeError
from distrain.runs.failures import count_restarts, failure_of
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import read_json, read_state
from launcher.backends.slurm import batch
from launcher.backends.slurm.jobs import StageJob, jobs_of
from launcher.backends.slurm.script import directive, render_job, slurm_time
from launcher.plan import StagePlan
from tests.launcher.small_run import ROOT

GOLDEN = Path(__file__).parents[3] / "golden"
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
) -> str:
    return render_job(job, run, LAUNCH, site or SiteConfig(), python)


def part(name: str) -> StageJob:
    """One of the jobs of a prepare stage over eight tasks."""
    (found,) = (job for job in jobs_of([SHARED_PREPARE]) if job.name == name)
    return found


@pytest.mark.parametrize(
    ("name", "stage", "site"),
    [
        ("two_nodes.sbatch", StageJob(PRETRAIN, None, 1, None), SITE),
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
    "name", ["two_nodes.sbatch", "one_process.sbatch", "array.sbatch", "one_phase.sbatch"]
)
def test_bash_can_read_the_script(name):
    subprocess.run(["bash", "-n", GOLDEN / name], check=True)


def test_a_stage_of_one_process_needs_no_torchrun():
    text = render(PREPARE, site=SITE)
    assert "distrain.agent" not in text
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


# --- what the script does, with srun and scontrol replaced by a few lines of shell

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
        text = render_part(job or StageJob(PREPARE, None, 1, None), self.run, site, python)
        self.script.write_text(text)
        self.stage.path.mkdir(parents=True)

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


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def state(word: str, *, requeue: bool = False) -> str:
    return json.dumps({"state": word, "attempt": 1, "step": 3, "requeue": requeue}, indent=1)


def test_only_the_record_of_the_stage_makes_the_job_succeed(job):
    assert job.start(RECORD=state("done"), SRUN_CODE="1") == (0, ["srun"])
    assert job.start() == (0, [])  # done before: nothing to start


def test_a_stage_that_yielded_is_requeued(job):
    assert job.start(RECORD=state("stopped", requeue=True)) == (75, ["srun", "requeue"])


def test_a_stage_that_was_stopped_is_not_requeued(job):
    assert job.start(RECORD=state("stopped")) == (75, ["srun"])


def test_a_job_that_was_cancelled_is_not_requeued(job):
    record = state("stopped", requeue=True)
    assert job.start(RECORD=record, JOB_STATE="COMPLETING") == (75, ["srun"])


def test_a_forbidden_requeue_says_how_to_go_on(job):
    impatient = "import sys, launcher.backends.slurm.batch as b, launcher.backends.slurm.job as j"
    impatient += "; b.PAUSES_S = (0,); sys.exit(j.main(sys.argv[1:]))"
    supervisor = f"{sys.executable} -m launcher.backends.slurm.job"
    text = job.script.read_text()
    job.script.write_text(text.replace(supervisor, f"{sys.executable} -c '{impatient}'"))
    code, _ = job.start(RECORD=state("stopped", requeue=True), REQUEUE_CODE="1")
    assert code == 75
    assert "scontrol requeue: is disabled" in job.output
    assert """To go on from step 0: distrain resume 'my 100% "run"'"'"'s'""" in job.output


def test_the_command_to_go_on_with_is_the_one_that_was_typed(monkeypatch):
    monkeypatch.setenv("DISTRAIN_COMMAND", "env/bin/distrain")
    assert "--resume=env/bin/distrain resume " in render(PRETRAIN)
    monkeypatch.delenv("DISTRAIN_COMMAND")
    assert "--resume=distrain resume " in render(PRETRAIN)


def test_an_error_that_would_repeat_is_not_tried_again(job):
    error = json.dumps({"exit_code": 4, "message": "the corpus is empty"})
    assert job.start(ERROR=error, SRUN_CODE="1") == (6, ["srun"])
    assert "the corpus is empty" in job.output


def test_a_start_that_left_no_word_was_lost_and_is_not_held_against_the_stage(job):
    for restart in range(3):
        job.start(SRUN_CODE="1", SLURM_RESTART_COUNT=str(restart))
    # Starts 3 to 5 died with their node.
    assert job.start(SRUN_CODE="1", SLURM_RESTART_COUNT="6") == (6, ["srun"])
    reasons = [e["reason"] for e in read_records(job.run.events) if e["event"] == "restarted"]
    assert reasons == [*["attempt failed (exit code 1)"] * 2, batch.BY_SLURM]


def test_a_job_of_a_number_that_was_used_before_begins_with_a_history_of_its_own(job):
    for restart in range(3):
        assert job.start(SRUN_CODE="1", SLURM_RESTART_COUNT=str(restart))[0] == 75
    assert job.start(SRUN_CODE="1") == (75, ["srun", "requeue"])
    assert job.start(SRUN_CODE="1", SLURM_RESTART_COUNT="1") == (75, ["srun", "requeue"])


def test_a_signal_asks_the_stage_to_yield_and_a_deaf_one_is_requeued(job):
    text = job.script.read_text()
    job.script.write_text(text.replace("--patience=290", "--patience=0"))
    assert job.start(SIGNAL="USR1", SAVES="000001") == (75, ["srun", "requeue"])
    assert "asked to yield" in job.output
    assert "did not end within 0 s" in job.output
    assert job.run.yield_.exists()


def test_a_wish_that_cannot_be_written_costs_no_restart(job):
    text = job.script.read_text()
    job.script.write_text(text.replace("--patience=290", "--patience=0"))
    srun = job.bin / "srun"
    no_folder = 'rm -r "$STAGE/../control"; touch "$STAGE/../control"\n'
    srun.write_text(SRUN.replace('[ -z "$SIGNAL" ]', no_folder + '[ -z "$SIGNAL" ]'))
    assert job.start(SIGNAL="USR1") == (75, ["srun", "requeue"])
    assert "asked to yield, but the stage cannot be told: " in job.output


def test_a_record_that_cannot_be_written_costs_no_restart(job):
    job.run.events.mkdir(parents=True)
    crashed = {"SRUN_CODE": "1", "SLURM_RESTART_COUNT": "1"}
    assert job.start(**crashed) == (75, ["srun", "requeue"])
    assert f"{job.run.events} cannot be written: Is a directory" in job.output


def test_without_room_for_another_start_the_job_does_not_go_back_to_the_queue(job):
    before, supervisor = job.script.read_text().rsplit("\nexec ", 1)
    # Larger than what the job writes, smaller than what it makes sure of.
    job.script.write_text(f"{before}\nulimit -f 32\nexec {supervisor}")
    assert job.start(SRUN_CODE="1") == (4, ["srun"])
    assert "no room to write to (File too large)" in job.output
    failure = failure_of(job.stage)
    assert failure is not None
    assert "no room to write to" in failure.error


def test_a_signal_that_comes_before_the_supervisor_has_looked_back_is_not_lost(job):
    job.run.control.mkdir()
    job.run.yield_.touch()  # of the last start
    text = job.script.read_text()
    early = "import os, signal, sys, launcher.backends.slurm.job as j; b = j.StageBatch.begin"
    early += "; j.StageBatch.begin = lambda s: (b(s), os.kill(os.getpid(), signal.SIGUSR1))"
    early += "; sys.exit(j.main(sys.argv[1:]))"
    supervisor = f"{sys.executable} -m launcher.backends.slurm.job"
    job.script.write_text(text.replace(supervisor, f"{sys.executable} -c '{early}'"))
    assert job.start(RECORD=state("stopped", requeue=True)) == (75, ["srun", "requeue"])
    assert "asked to yield" in job.output
    assert job.run.yield_.exists()


def test_a_slurm_that_does_not_answer_costs_no_restart(job):
    """A controller that fails over may take longer than a command may."""
    text = job.script.read_text()
    impatient = "import sys, launcher.backends.slurm.client as c, launcher.backends.slurm.job as j"
    impatient += "; c.COMMAND_TIMEOUT_S = 0.5; sys.exit(j.main(sys.argv[1:]))"
    supervisor = f"{sys.executable} -m launcher.backends.slurm.job"
    job.script.write_text(text.replace(supervisor, f"{sys.executable} -c '{impatient}'"))
    scontrol = job.bin / "scontrol"
    hangs = '[ -e "$CALLS.hung" ] || { touch "$CALLS.hung"; exec sleep 60; }\n'
    for call in ("show job", "requeue 5"):
        scontrol.write_text(SCONTROL.replace("case", f'[ "$1 $2" != "{call}" ] || {hangs}case', 1))
        job.calls.with_name("calls.hung").unlink(missing_ok=True)
        assert job.start(SRUN_CODE="1") == (75, ["srun", "requeue"])
        assert job.calls.with_name("calls.hung").exists()


def test_a_setup_that_ends_at_the_first_error_does_not_end_at_the_script_itself(tmp_path):
    job = Job(tmp_path, site=SiteConfig(setup=("set -euo pipefail",)))
    assert job.start(RECORD=state("done")) == (0, ["srun"])


def test_a_setup_may_put_python_on_the_path(tmp_path):
    """It runs in the batch script, for the supervisor, and on every node."""
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "site-python").symlink_to(sys.executable)
    site = SiteConfig(setup=(f"export PATH={tmp_path}/module:$PATH",), python="site-python")
    job = Job(tmp_path, site=site, python="site-python")
    srun = job.bin / "srun"
    srun.write_text(SRUN.replace('exit "$SRUN_CODE"', '"${@: -3}"'))  # runs what a node would
    code, calls = job.start(PYTHONPATH=str(ROOT))
    assert "No module named distrain" not in job.output
    assert "site-python: command not found" not in job.output
    assert (code, calls) == (75, ["srun", "requeue"])
    assert "resolved.yaml" in job.output, "the runtime began, and found no recipe"
    without = Job(tmp_path / "without", site=SiteConfig(python="site-python"), python="site-python")
    assert without.start()[0] == 127


def test_an_old_record_does_not_count_for_an_attempt_that_never_began(job):
    job.stage.state.write_text(state("stopped", requeue=True) + "\n")
    assert job.start(SRUN_CODE="1") == (75, ["srun", "requeue"])
    assert "attempt failed (exit code 1)" in job.output


def test_attempts_in_vain_are_counted_over_restarts_until_one_saves(job):
    for restart in range(3):
        code, _ = job.start(SRUN_CODE="1", SLURM_RESTART_COUNT=str(restart))
        assert code == 75
    assert job.start(SRUN_CODE="1", SAVES="000010", SLURM_RESTART_COUNT="3")[0] == 75
    for restart in range(4, 7):
        assert job.start(SRUN_CODE="1", SLURM_RESTART_COUNT=str(restart))[0] == 75
    assert job.start(SRUN_CODE="1", SLURM_RESTART_COUNT="7") == (6, ["srun"])
    assert "4 attempts in a row without a new checkpoint" in job.output
    events = [json.loads(line) for line in job.run.events.read_text().splitlines()]
    assert [event["event"] for event in events] == ["restarted"] * 7 + ["failed"]


def test_yields_without_a_new_checkpoint_are_in_vain(job):
    """A time limit too short for a step once brought eight requeues in four minutes."""
    saved = {"RECORD": state("stopped", requeue=True), "SAVES": "000000"}
    for restart in range(3):
        job.stage.state.unlink(missing_ok=True)
        assert job.start(**saved, SLURM_RESTART_COUNT=str(restart))[1] == ["srun", "requeue"]
    job.stage.state.unlink()
    assert job.start(**saved, SLURM_RESTART_COUNT="3") == (6, ["srun"])
    failure = failure_of(job.stage)
    assert failure is not None
    assert "4 attempts in a row without a new checkpoint, the last: yielded" in failure.error
    assert "launch.time_limit" in failure.remedy


def test_a_yield_after_a_new_checkpoint_earns_new_attempts(job):
    for restart in range(6):
        job.stage.state.unlink(missing_ok=True)
        answers = {"RECORD": state("stopped", requeue=True), "SAVES": f"{restart + 1:06d}"}
        assert job.start(**answers, SLURM_RESTART_COUNT=str(restart))[0] == 75


def test_a_stage_that_the_script_gives_up_is_failed_as_one_that_gave_up_itself(job):
    for restart in range(4):
        running = json.dumps({"state": "running", "attempt": restart + 1, "step": 10}, indent=1)
        job.start(SRUN_CODE="1", RECORD=running, SAVES="000010", SLURM_RESTART_COUNT=str(restart))
    assert job.start(SRUN_CODE="9", RECORD=running, SAVES="000010", SLURM_RESTART_COUNT="4") == (
        6,
        ["srun"],
    )  # the first one committed step 10
    written = read_state(job.stage)
    assert written is not None
    assert (written["state"], written["attempt"], written["step"]) == ("failed", 4, 10)
    assert written["error"] == read_json(job.stage.error)
    assert written["error"]["time"] == written["time"]
    failure = failure_of(job.stage)
    assert failure is not None
    assert failure.error == (
        "stage prepare: found 4 attempts in a row without a new checkpoint, the last: attempt "
        "failed (exit code 9); expected a finished stage."
    )
    name = """'my 100% "run"'"'"'s'"""
    assert failure.remedy == (
        f"Read `distrain logs {name} --errors`, remove the cause, then `distrain resume {name}`."
    )
    assert count_restarts(read_records(job.run.events), "prepare") == 4


def test_a_stage_that_never_began_is_given_up_with_a_state_of_its_own(job):
    for restart in range(4):
        job.start(SRUN_CODE="127", SLURM_RESTART_COUNT=str(restart))
    written = read_state(job.stage)
    assert written is not None
    assert (written["state"], written["attempt"]) == ("failed", 0)


def test_a_wish_to_stop_ends_a_queued_job_at_once_but_an_old_one_to_yield_does_not(job):
    job.run.control.mkdir()
    job.run.stop.touch()
    assert job.start() == (75, [])
    job.run.stop.unlink()
    job.run.yield_.touch()
    assert job.start(RECORD=state("done")) == (0, ["srun"])
    assert not job.run.yield_.exists()


# --- a job that does one phase


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Task 3 of the array that cleans; its answers are those of ``Job``."""
    job = Job(tmp_path, part("prepare.clean"))
    for name, value in {"ARRAY_JOB_ID": "4", "ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setitem(ANSWERS, f"SLURM_{name}", value)
    monkeypatch.setitem(ANSWERS, "ARRAY", "yes")
    return job


def test_an_array_has_the_tasks_and_each_its_share():
    text = render_part(part("prepare.encode"))
    assert "#SBATCH --array=0-7\n" in text
    assert '--phase=encode \\\n  "--share=${SLURM_ARRAY_TASK_ID}/8"' in text
    assert "--array" not in render_part(part("prepare.decide"))


def test_a_task_ends_with_its_process_and_is_not_started_again(task):
    assert task.start() == (0, ["srun"])
    assert task.start(SRUN_CODE="75") == (75, ["srun"])
    assert "a later job does the rest" in task.output


def test_a_task_that_fails_is_started_again_by_its_own_id_a_few_times(task):
    for restart in range(3):
        answer = task.start(SRUN_CODE="1", SLURM_RESTART_COUNT=str(restart))
        assert answer == (75, ["srun", "requeue:4_3"])
    assert task.start(SRUN_CODE="1", SLURM_RESTART_COUNT="3") == (75, ["srun"])
    assert "attempt failed (exit code 1); a later job does the rest" in task.output


def test_at_the_time_limit_a_task_goes_on_later_unless_it_finished_nothing(task):
    assert task.start(SIGNAL="USR1") == (75, ["srun"])
    assert "no range was finished" in task.output
    assert task.start(SIGNAL="USR1", RANGE="00003") == (75, ["srun", "requeue:4_3"])
    assert task.start(SIGNAL="USR1", RANGE="00003") == (75, ["srun"]), "finished before"


def test_a_task_that_is_preempted_goes_on_later_and_one_that_is_cancelled_does_not(task):
    assert task.start(SIGNAL="TERM") == (75, ["srun", "requeue:4_3"])
    assert task.start(SIGNAL="TERM", JOB_STATE="CANCELLED") == (75, ["srun"])


def test_an_error_that_would_repeat_ends_the_tasks_that_begin_later(task):
    error = json.dumps({"exit_code": 4, "message": "a file changed"})
    assert task.start(ERROR=error, SRUN_CODE="1") == (6, ["srun"])
    assert task.start() == (6, [])


def test_the_first_job_of_a_stage_forgets_the_error_of_an_earlier_submission(tmp_path):
    job = Job(tmp_path, part("prepare.plan"))
    job.stage.error.write_text("{}")
    assert job.start() == (0, ["srun"])
    assert not job.stage.error.exists()


def test_a_task_of_a_stopped_run_does_not_begin(task):
    task.run.control.mkdir()
    task.run.stop.touch()
    assert task.start() == (75, [])
