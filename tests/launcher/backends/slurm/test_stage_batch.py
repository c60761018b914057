"""What a job that ends a stage does; on a real Slurm: ``tests/cluster``."""

import json
import sys

import pytest

from distrain.config.launch import SiteConfig
from distrain.runs.failures import count_restarts, failure_of
from distrain.runs.json_lines import read_records
from distrain.runs.records import read_json, read_state
from distrain.runs.strikes import add_strike
from launcher.backends.slurm import batch
from tests.launcher.backends.slurm.batch_jobs import SCONTROL, SRUN, Job, state
from tests.launcher.small_run import ROOT

SINFO = "#!/bin/bash\nprintf 'localhost|idle\\nother|idle\\n'\n"


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


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


def test_an_error_that_would_repeat_is_not_tried_again(job):
    error = json.dumps({"exit_code": 4, "message": "the corpus is empty"})
    assert job.start(ERROR=error, SRUN_CODE="1") == (6, ["srun"])
    assert "the corpus is empty" in job.output


def test_a_stage_that_failed_for_good_is_not_tried_again_when_slurm_requeues_its_job(job):
    """Its node may die between the stage's last word and the job's."""
    error = json.dumps({"exit_code": 4, "message": "the corpus is empty"})
    job.stage.error.write_text(error)
    assert job.start(SLURM_RESTART_COUNT="1") == (6, [])
    assert "the corpus is empty" in job.output
    assert job.start(RECORD=state("done")) == (0, ["srun"]), "submitted anew, it is"


def test_a_start_that_left_no_word_was_lost_and_is_not_held_against_the_stage(job):
    for restart in range(3):
        job.start(SRUN_CODE="1", SLURM_RESTART_COUNT=str(restart))
    # Starts 3 to 5 died with their node.
    assert job.start(SRUN_CODE="1", SLURM_RESTART_COUNT="6") == (6, ["srun"])
    reasons = [e["reason"] for e in read_records(job.run.events) if e["event"] == "restarted"]
    assert reasons == [*["attempt failed (exit code 1)"] * 2, batch.BY_SLURM]


def test_a_start_on_a_node_that_is_left_out_goes_back_before_it_begins(job):
    """As after a requeue of Slurm's own, or where the run is submitted anew."""
    (job.bin / "sinfo").write_text(SINFO)
    (job.bin / "sinfo").chmod(0o755)
    for _ in range(2):
        add_strike(job.run, "prepare", "localhost", "hung", None, "")
    assert job.start() == (75, ["requeue"])
    assert "this job gets no more of localhost" in job.output
    (event,) = (e for e in read_records(job.run.events) if e["event"] == "nodes_excluded")
    assert (event["job"], event["nodes"]) == ("5", "localhost")
    # Where Slurm does not do as it is told, better there than nowhere.
    assert job.start(SLURM_RESTART_COUNT="1") == (75, ["requeue"])
    assert job.start(SLURM_RESTART_COUNT="2", RECORD=state("done")) == (0, ["srun"])


CHECK = """#!/bin/bash
if [ -n "$DISTRAIN_NODE_CHECK" ]; then
  echo check >>"$CALLS"
  mkdir -p "$STAGE/checks/5.0"
  [ -z "$FOUND" ] || echo "$FOUND" >"$STAGE/checks/5.0/localhost.json"
  exit
fi
"""
WRONG = '{"node": "localhost", "wrong": ["3 of 9 products wrong"]}'


@pytest.fixture
def checked_job(tmp_path):
    """One whose nodes are checked, by a srun that writes ``FOUND``."""
    job = Job(tmp_path, node_checks="on")
    (job.bin / "srun").write_text(CHECK + SRUN)
    return job


def test_nodes_are_checked_once_in_a_job(checked_job):
    fit = '{"node": "localhost", "products": {"cpu float32": 99.0}, "seconds": 2.5}'
    assert checked_job.start(FOUND=fit, SRUN_CODE="1") == (75, ["check", "srun", "requeue"])
    assert "1 node checked in 2.5 s beside imports: localhost 99 GFLOP/s" in checked_job.output
    assert checked_job.start(SLURM_RESTART_COUNT="1", RECORD=state("done")) == (0, ["srun"])


def test_a_check_that_did_not_run_keeps_nothing_from_beginning(checked_job):
    assert checked_job.start(RECORD=state("done")) == (0, ["check", "srun"])
    assert "the check of the nodes did not run" in checked_job.output


def test_an_unfit_node_is_left_at_once_if_there_is_another(checked_job):
    (checked_job.bin / "sinfo").write_text(SINFO)
    (checked_job.bin / "sinfo").chmod(0o755)
    assert checked_job.start(FOUND=WRONG) == (75, ["check", "requeue"])
    kinds = [event["event"] for event in read_records(checked_job.run.events)]
    assert kinds == ["strike", "node_unfit", "nodes_excluded"]


def test_an_unfit_node_ends_the_stage_if_there_is_no_other(checked_job):
    assert checked_job.start(FOUND=WRONG) == (4, ["check"])
    failure = failure_of(checked_job.stage)
    assert failure is not None
    assert failure.error == (
        "node localhost: found 3 of 9 products wrong; expected what was put in."
    )
    assert "When Slurm has another node: distrain resume" in failure.remedy


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
    job = Job(tmp_path, site=site, python="site-python", max_restarts=0)
    job.run_nodes()
    code, calls = job.start(PYTHONPATH=str(ROOT))
    assert "No module named distrain" not in job.output
    assert "site-python: command not found" not in job.output
    assert (code, calls) == (6, ["srun"])
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


def test_a_node_that_only_did_not_meet_the_others_gets_no_strike_and_the_stage_begins(checked_job):
    apart = '{"node": "localhost", "absent": ["localhost"]}'
    assert checked_job.start(FOUND=apart, RECORD=state("done")) == (0, ["check", "srun"])
    kinds = [event["event"] for event in read_records(checked_job.run.events)]
    assert kinds == ["node_unfit"]
    assert not checked_job.run.strikes.exists()
