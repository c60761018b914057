import json
from dataclasses import replace

import pytest

from distrain.errors import TrainingError
from distrain.runs.failures import record_failure
from distrain.runs.lock import hold
from distrain.runs.records import append_event, append_record, read_state, write_json
from distrain.runs.strikes import add_strike
from launcher.backends.slurm.backend import SlurmBackend
from launcher.backends.slurm.client import Slurm
from launcher.commands.status import run_status, status_table, with_queue_notes
from tests.distrain.tasks import pairwise
from tests.launcher.backends.slurm.fake_slurm import FakeSlurm
from tests.launcher.fake_runtime import step_record
from tests.launcher.small_run import new_run


@pytest.fixture(autouse=True)
def runs_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))


def mark(run, stage, state, attempt=1, step=0):
    record = {"state": state, "attempt": attempt, "step": step, "requeue": False, "time": ""}
    write_json(run.stage(stage).state, record)


def state_of(plan, stage):
    state = read_state(plan.run.stage(stage))
    assert state is not None
    return state


def by_stage(plan):
    return {row.stage: row for row in run_status(plan.run, plan.recipe)}


def test_a_stage_waits_then_runs_then_is_done(tmp_path):
    plan = new_run(tmp_path)
    run = plan.run
    assert {row.state for row in by_stage(plan).values()} == {"waiting"}

    mark(run, "prepare", "done")
    mark(run, "pretrain", "running", attempt=3, step=5)
    for number in (6, 7):
        append_record(run.stage("pretrain").metrics, step_record(number, attempt=3))
    with hold(run.stage("pretrain").lock, "small"):
        row = by_stage(plan)["pretrain"]

    assert (row.state, row.step, row.total_steps, row.restarts) == ("running", 7, 25, 0)
    assert row.loss == 8 - 0.7
    assert row.eta_s is not None
    assert abs(row.eta_s - 0.18) < 1e-9
    assert by_stage(plan)["prepare"].state == "done"


def test_a_running_stage_without_a_process_was_interrupted(tmp_path):
    plan = new_run(tmp_path)
    mark(plan.run, "pretrain", "running")
    row = by_stage(plan)["pretrain"]
    assert row.state == "interrupted"
    assert "distrain resume small" in row.note
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "other"))
        assert f"distrain resume {plan.run.root}" in by_stage(plan)["pretrain"].note

    with hold(plan.run.lock, "small"):
        assert by_stage(plan)["pretrain"].state == "running"


@pytest.mark.parametrize(
    ("launch", "state"),
    [
        (["backend=slurm"], "running"),
        (["backend=torchrun", "nodes=2", "rendezvous=host:29500"], "running"),
        (["backend=torchrun"], "interrupted"),
    ],
)
def test_a_stage_is_judged_by_locks_where_it_runs_on_one_machine(launch, state, tmp_path):
    overrides = [f"launch.{setting}" for setting in launch]
    plan = new_run(tmp_path, *overrides)
    mark(plan.run, "pretrain", "running")
    assert by_stage(plan)["pretrain"].state == state


def test_only_starts_after_a_failure_are_restarts(tmp_path):
    """The second start is the user's own, the third Slurm's after a time limit."""
    plan = new_run(tmp_path)
    mark(plan.run, "pretrain", "running", attempt=4)
    events = plan.run.events
    append_event(events, "restarted", "pretrain", reason="yielded", job="7")
    append_event(events, "restarted", "pretrain", reason="killed by SIGKILL", attempt=4)
    append_event(events, "restarted", "prepare", reason="killed by SIGKILL", attempt=2)
    assert by_stage(plan)["pretrain"].restarts == 1
    with events.open("a") as file:
        file.write('{"torn\n')
    assert by_stage(plan)["pretrain"].restarts == 1


def fail(plan, stage, *, attempt=1):
    error = TrainingError("corpus", "nothing", "text\nin files", "Name files that hold some.")
    record_failure(plan.run, stage, error, attempt)


def test_a_stage_that_failed_for_good_says_when_why_and_what_to_do(tmp_path):
    plan = new_run(tmp_path)
    mark(plan.run, "prepare", "running", attempt=2)
    fail(plan, "prepare", attempt=2)
    row = by_stage(plan)["prepare"]
    assert (row.state, row.remedy) == ("failed", "Name files that hold some.")
    assert row.error == "corpus: found nothing; expected text\nin files."
    assert row.failed_at == state_of(plan, "prepare")["time"]
    assert by_stage(plan)["pretrain"].error is None

    text = status_table(run_status(plan.run, plan.recipe))
    table, below = text.split("\n\n")
    cells = table.splitlines()[1].split()
    assert (cells[:3], cells[-2:]) == (["small", "prepare", "failed"], ["see", "below"])
    assert below.splitlines() == [
        f"prepare failed at {str(row.failed_at)[:10]} {str(row.failed_at)[11:19]} UTC: corpus: "
        "found nothing; expected text",
        "in files.",
        "Name files that hold some.",
    ]
    (line,) = [r.to_json() for r in run_status(plan.run, plan.recipe) if r.stage == "prepare"]
    assert (line["failed_at"], line["error"], line["remedy"]) == (
        row.failed_at, row.error, row.remedy,
    )  # fmt: skip


def test_a_failure_is_known_from_the_state_alone_and_from_an_error_of_before(tmp_path):
    plan = new_run(tmp_path)
    fail(plan, "prepare")
    plan.run.stage("prepare").error.unlink()
    assert by_stage(plan)["prepare"].remedy == "Name files that hold some."

    mark(plan.run, "pretrain", "running")  # as an older version left it
    write_json(plan.run.stage("pretrain").error, {"exit_code": 4, "message": "corpus: empty"})
    row = by_stage(plan)["pretrain"]
    assert (row.state, row.error, row.failed_at) == ("failed", "corpus: empty", None)


def test_a_failed_stage_that_is_started_again_is_no_longer_failed(tmp_path):
    plan = new_run(tmp_path)
    fail(plan, "prepare")
    with hold(plan.run.lock, "small"):
        assert by_stage(plan)["prepare"].state == "failed"  # another stage runs
        plan.run.stage("prepare").error.unlink()  # the launcher, before it starts the process
        row = by_stage(plan)["prepare"]
    assert (row.state, row.note, row.error) == ("running", "starts again", None)


def test_an_error_is_known_before_the_stage_itself_has_begun(tmp_path):
    plan = new_run(tmp_path)
    write_json(plan.run.stage("prepare").error, {"exit_code": 4, "message": "a file changed"})
    assert by_stage(plan)["prepare"].state == "failed"


def begin_prepare(plan, ranges, cleaned):
    folder = plan.run.stage("prepare")
    write_json(folder.plan, {"sources": {"main": {"ranges": list(range(ranges))}}})
    for number in range(cleaned):
        write_json(folder.cleaned / "main" / f"_{number:05d}.json", {})


def test_a_prepare_stage_says_how_many_ranges_it_has_done(tmp_path):
    plan = new_run(tmp_path)
    begin_prepare(plan, ranges=5, cleaned=2)
    assert by_stage(plan)["prepare"].note == "2 of 5 ranges cleaned"
    mark(plan.run, "prepare", "running")
    with hold(plan.run.stage("prepare").lock, "small"):
        assert by_stage(plan)["prepare"].note == "2 of 5 ranges cleaned"
    mark(plan.run, "prepare", "done")
    assert by_stage(plan)["prepare"].note == ""


def test_a_stage_of_several_jobs_is_as_the_first_that_has_not_ended(tmp_path):
    plan = new_run(tmp_path, "launch.backend=slurm", "launch.prepare_tasks=3")
    fake = FakeSlurm()
    slurm = {"slurm": SlurmBackend(Slurm(fake))}
    for phase in ("plan", "clean", "decide", "encode"):
        fake.states[phase] = "PENDING"
    fake.states["end"] = "PENDING"
    fake.scripts = dict.fromkeys(fake.states, tmp_path)
    jobs = {f"prepare.{job}" if job != "end" else "prepare": job for job in fake.states}
    write_json(plan.run.jobs, jobs)

    def prepare():
        rows = with_queue_notes(plan.run, run_status(plan.run, plan.recipe), slurm)
        return rows[0].state, rows[0].note

    waits = "waits jobs with a higher priority go first (Priority)"
    assert prepare() == ("waiting", f"plan {waits}")
    fake.states |= {"plan": "COMPLETED", "clean": "RUNNING"}
    begin_prepare(plan, ranges=5, cleaned=2)
    assert prepare() == ("running", "clean: 2 of 5 ranges cleaned")
    write_json(plan.run.stage("prepare").error, {"exit_code": 4, "message": "a file changed"})
    assert prepare() == ("failed", "")
    plan.run.stage("prepare").error.unlink()
    fake.states |= {"clean": "FAILED", "decide": "FAILED", "encode": "COMPLETED"}
    assert prepare() == ("waiting", waits)
    fake.states["end"] = "COMPLETED"
    mark(plan.run, "prepare", "done")
    assert prepare() == ("done", "")


def test_a_stage_whose_job_has_ended_without_a_word_was_interrupted(tmp_path):
    plan = new_run(tmp_path, "launch.backend=slurm")
    mark(plan.run, "pretrain", "running")
    write_json(plan.run.jobs, {"pretrain": "7"})
    fake = FakeSlurm()
    slurm = {"slurm": SlurmBackend(Slurm(fake))}
    fake.scripts, fake.states = {"7": tmp_path}, {"7": "RUNNING"}

    def pretrain():
        rows = with_queue_notes(plan.run, run_status(plan.run, plan.recipe), slurm)
        return rows[1].state, rows[1].note

    assert pretrain()[0] == "running"
    fake.states["7"] = "TIMEOUT"
    assert pretrain() == ("interrupted", "job 7 is TIMEOUT; distrain resume small")
    fake.scripts.clear()  # Slurm forgets after some minutes
    assert pretrain() == ("interrupted", "job 7 is gone; distrain resume small")


def test_the_table_names_every_stage_and_unknown_figures_are_dashes(tmp_path):
    plan = new_run(tmp_path)
    lines = status_table(run_status(plan.run, plan.recipe)).splitlines()
    assert lines[0].split() == [
        "RUN", "STAGE", "STATE", "STEP", "LOSS", "TOK/S", "ETA", "RESTARTS", "NOTE",
    ]  # fmt: skip
    assert lines[2].split() == ["small", "pretrain", "waiting", "0/25", "-", "-", "-", "0"]


def test_what_is_held_against_nodes_stands_below_the_table(tmp_path):
    plan = new_run(tmp_path)
    for how in ("hung", "gone"):
        add_strike(plan.run, "pretrain", "n2", how, 1, "killed by SIGKILL")
    append_event(plan.run.events, "nodes_excluded", "pretrain", job="7", nodes="n2")
    append_event(plan.run.events, "node_replaced", "pretrain", node="n2", spare="n4")
    append_event(plan.run.events, "spare_lost", "pretrain", node="n5")
    late = {"step": 40, "rank": 3, "node": "n3", "waits": 0.05, "others_wait": 0.41}
    append_event(plan.run.events, "straggler", "pretrain", **late)
    lines = (
        "pretrain: node n2: 2 strikes, the last: gone, rank 1 (killed by SIGKILL)",
        "pretrain: job 7 gets no more of n2",
        "pretrain: spare n4 has the place of n2",
        "pretrain: spare n5 is lost",
        "pretrain: at step 40 the others waited 41 % of the time for rank 3 on n3, "
        "which waited 5 %",
    )
    assert status_table(run_status(plan.run, plan.recipe)).endswith("\n".join(lines))


def test_the_status_is_json(tmp_path):
    plan = new_run(tmp_path)
    rows = [row.to_json() for row in run_status(plan.run, plan.recipe)]
    assert json.loads(json.dumps(rows))[1]["stage"] == "pretrain"


def test_the_metrics_of_another_task_stand_by_their_names(tmp_path):
    with pairwise.registered():
        plan = new_run(tmp_path, "pretrain.training.task=pairwise")
        record = step_record(6, attempt=1) | {"train/preference": 0.6931, "train/agreement": 0.25}
        append_record(plan.run.stage("pretrain").metrics, record)
        row = by_stage(plan)["pretrain"]
    assert row.loss == 0.6931
    assert row.metrics == {"preference": 0.6931, "agreement": 0.25}
    assert "preference 0.693, agreement 0.250" in status_table([row])


def test_of_many_metrics_the_table_shows_what_is_trained_alone(tmp_path):
    row = by_stage(new_run(tmp_path))["pretrain"]
    many = {"loss": 0.6931, "reward_chosen": 0.1, "reward_rejected": -0.1, "reward_margin": 0.2}
    text = status_table([replace(row, loss=0.6931, metrics=many)])
    assert "0.693" in text
    assert "reward" not in text
