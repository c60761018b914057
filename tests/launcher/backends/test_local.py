import io
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from distrain.errors import ExitCode, PreflightError, TrainingError
from distrain.runs.json_lines import read_records
from distrain.runs.lock import hold
from distrain.runs.records import read_json, write_json
from launcher.backends.local import run_stages
from launcher.backends.protocol import Surroundings
from launcher.backends.supervise import ROOM_BYTES, StageFailedError
from launcher.plan import Plan
from launcher.watch.display import LineDisplay
from tests.launcher.small_run import ROOT, fake_python, new_run


class Screen(io.StringIO):
    """Collects what a run shows."""

    def say(self, line: str) -> None:
        self.write(line + "\n")

    def surroundings(self, python: str, arguments: tuple[str, ...] = ()) -> Surroundings:
        def display(extent):
            return LineDisplay(extent.stage, extent.total_steps, extent.logging_steps, self)

        return Surroundings(self.say, display, python, arguments)


def state_of(plan: Plan, stage: str) -> dict:
    state = read_json(plan.run.stage(stage).state)
    assert state is not None
    return state


def events_of(plan: Plan, stage: str) -> list[str]:
    return [e["event"] for e in read_records(plan.run.events) if e["stage"] == stage]


def test_stages_run_in_order_and_a_done_one_is_never_repeated(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path)

    assert run_stages(plan, plan.stages, Screen().surroundings(python)) is ExitCode.DONE
    started = [e["stage"] for e in read_records(plan.run.events) if e["event"] == "started"]
    assert started == ["prepare", "pretrain", "export"]

    screen = Screen()
    assert run_stages(plan, plan.stages, screen.surroundings(python)) is ExitCode.DONE
    assert state_of(plan, "pretrain")["attempt"] == 1
    assert screen.getvalue().count("done before, skipped") == 3


def test_a_stage_that_is_done_runs_again_when_it_is_given_arguments(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path)
    run_stages(plan, plan.stages, Screen().surroundings(python))

    run_stages(plan, plan.stages[-1:], Screen().surroundings(python, ("--again",)))

    assert state_of(plan, "export")["attempt"] == 2


def test_a_crashed_stage_is_started_again_and_shows_its_last_lines(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path, pretrain=["crash", "done"])
    screen = Screen()

    assert run_stages(plan, plan.stages, screen.surroundings(python)) is ExitCode.DONE

    assert state_of(plan, "pretrain")["attempt"] == 2
    assert events_of(plan, "pretrain") == ["started", "restarted", "started"]
    assert "the reason is here" in screen.getvalue()


def test_attempts_without_a_new_committed_step_end_the_run(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path, pretrain=["crash"])

    with pytest.raises(TrainingError, match=r"2 attempts in a row without a new committed step"):
        run_stages(plan, plan.stages, Screen().surroundings(python))

    state = state_of(plan, "pretrain")
    assert (state["state"], state["attempt"], state["step"]) == ("failed", 2, 0)
    assert state["error"] == read_json(plan.run.stage("pretrain").error)
    assert state["error"]["remedy"].startswith("Read `distrain logs small --errors`")
    assert state["error"]["time"] == state["time"]
    assert events_of(plan, "pretrain")[-1] == "failed"
    assert not plan.run.stage("export").state.exists()


def test_a_stage_that_was_given_up_is_started_again_by_the_user(tmp_path):
    plan = new_run(tmp_path, "launch.max_restarts=0")
    python = fake_python(tmp_path, pretrain=["crash", "done"])
    with pytest.raises(TrainingError):
        run_stages(plan, plan.stages, Screen().surroundings(python))

    assert run_stages(plan, plan.stages, Screen().surroundings(python)) is ExitCode.DONE
    assert state_of(plan, "pretrain")["state"] == "done"
    assert "error" not in state_of(plan, "pretrain")
    assert not plan.run.stage("pretrain").error.exists()


def test_a_process_that_never_began_is_given_up_with_a_state_of_its_own(tmp_path):
    plan = new_run(tmp_path, "launch.max_restarts=0")
    with pytest.raises(TrainingError, match="exit code 9"):
        run_stages(
            plan, plan.stages, Screen().surroundings(fake_python(tmp_path, prepare=["die-at-once"]))
        )
    state = state_of(plan, "prepare")
    assert (state["state"], state["attempt"]) == ("failed", 1)


def test_a_committed_step_earns_new_attempts(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(
        tmp_path, pretrain=["crash", "commit-then-crash", "crash", "commit-then-crash", "done"]
    )

    assert run_stages(plan, plan.stages, Screen().surroundings(python)) is ExitCode.DONE
    assert state_of(plan, "pretrain")["attempt"] == 5


def test_without_room_the_stage_is_failed_if_that_much_can_still_be_written(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path, prepare=["crash"])
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES // 2, hard))
    try:
        with pytest.raises(PreflightError, match="no room to write to"):
            run_stages(plan, plan.stages, Screen().surroundings(python))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    state = state_of(plan, "prepare")
    assert (state["state"], state["attempt"]) == ("failed", 1)
    assert state["error"]["remedy"].startswith("Free space")


def test_a_recorded_error_is_not_met_a_second_time(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path, prepare=["refuse"])

    with pytest.raises(StageFailedError, match=r"^corpus: found nothing$") as caught:
        run_stages(plan, plan.stages, Screen().surroundings(python))

    assert caught.value.exit_code is ExitCode.PREFLIGHT
    assert state_of(plan, "prepare")["attempt"] == 1


def test_a_state_left_by_an_earlier_attempt_does_not_count(tmp_path):
    plan = new_run(tmp_path, "launch.max_restarts=0")
    left = {"state": "stopped", "attempt": 1, "step": 7, "requeue": True, "time": ""}
    write_json(plan.run.stage("prepare").state, left)
    python = fake_python(tmp_path, prepare=["die-at-once"])

    with pytest.raises(TrainingError, match="exit code 9"):
        run_stages(plan, plan.stages, Screen().surroundings(python))


def test_a_signal_asks_the_run_to_save_and_stop(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path, pretrain=["wait"])
    interrupt = _when_running(plan, "pretrain", signal.SIGTERM)

    code = run_stages(plan, plan.stages, Screen().surroundings(python))

    interrupt.join()
    assert code is ExitCode.STOPPED
    assert state_of(plan, "pretrain") | {"time": ""} == {
        "state": "stopped", "attempt": 1, "step": 1, "requeue": True, "time": "",
    }  # fmt: skip
    assert plan.run.yield_.exists()
    assert events_of(plan, "pretrain")[-1] == "yield_requested"
    assert not plan.run.stage("export").state.exists()


def test_a_second_signal_kills_a_stage_that_does_not_listen(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path, prepare=["hang"])
    interrupt = _when_running(plan, "prepare", signal.SIGINT, signal.SIGINT)

    code = run_stages(plan, plan.stages, Screen().surroundings(python))

    interrupt.join()
    assert code is ExitCode.INTERRUPTED
    assert not _is_alive(_pid_of(plan, "prepare"))


def test_a_killed_launcher_leaves_no_orphan(tmp_path):
    plan = new_run(tmp_path)
    python = fake_python(tmp_path, prepare=["hang"])
    launcher = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            from pathlib import Path
            from distrain.config.reading.load import read_resolved
            from distrain.runs.folder import RunFolder
            from launcher.backends.local import run_stages
            from launcher.backends.protocol import Surroundings
            from launcher.watch.display import display_factory
            from launcher.plan import make_plan
            run = RunFolder(Path({str(plan.run.root)!r}))
            plan = make_plan(read_resolved(run.resolved), run, 1)
            run_stages(plan, plan.stages, Surroundings(print, display_factory(), {python!r}))
        """)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(lambda: plan.run.stage("prepare").state.exists())
        pid = _pid_of(plan, "prepare")
        assert _is_alive(pid)
    finally:
        launcher.kill()
        launcher.wait()

    _wait_for(lambda: not _is_alive(pid))


def test_a_second_process_on_the_same_run_is_refused(tmp_path):
    plan = new_run(tmp_path)

    with (
        hold(plan.run.lock, "small"),
        pytest.raises(PreflightError, match="another living process that works on run 'small'"),
        hold(plan.run.lock, "small", patience_s=0.2),
    ):
        pass


def test_a_lock_file_without_a_holder_is_no_obstacle(tmp_path):
    plan = new_run(tmp_path)
    with hold(plan.run.lock, "small"):
        pass
    with hold(plan.run.lock, "small", patience_s=0):
        pass


def test_every_validation_event_and_due_step_is_shown_although_the_stage_ended_at_once(tmp_path):
    plan = new_run(tmp_path, "logging.logging_steps=10")
    screen = Screen()

    run_stages(plan, plan.stages, screen.surroundings(fake_python(tmp_path, pretrain=["metrics"])))

    shown = [
        line.split(" | ")[0].split("step ")[1]
        for line in screen.getvalue().splitlines()
        if " | loss" in line
    ]
    assert shown == [" 1/25", "10/25", "20/25", "25/25"]
    assert "checkpoint of step 25" in screen.getvalue()


def _when_running(plan: Plan, stage: str, *signals: int) -> threading.Thread:
    def send() -> None:
        _wait_for(lambda: plan.run.stage(stage).state.exists())
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def _wait_for(condition, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def _pid_of(plan: Plan, stage: str) -> int:
    def started() -> list[dict]:
        return [e for e in read_records(plan.run.events) if e["stage"] == stage]

    _wait_for(lambda: bool(started()))
    return int(started()[0]["pid"])


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
