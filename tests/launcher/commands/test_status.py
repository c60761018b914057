import json

from distrain.runs.lock import hold
from distrain.runs.records import append_record, write_json
from launcher.backends.slurm.client import Slurm
from launcher.commands.status import last_records, run_status, status_table, with_queue_notes
from tests.launcher.backends.slurm.fake_slurm import FakeSlurm
from tests.launcher.fake_runtime import step_record
from tests.launcher.small_run import new_run


def mark(run, stage, state, attempt=1, step=0):
    record = {"state": state, "attempt": attempt, "step": step, "requeue": False, "time": ""}
    write_json(run.stage(stage).state, record)


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

    assert (row.state, row.step, row.total_steps, row.restarts) == ("running", 7, 25, 2)
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

    with hold(plan.run.lock, "small"):
        assert by_stage(plan)["pretrain"].state == "running"


def test_a_stage_under_slurm_is_not_judged_by_locks_of_this_machine(tmp_path):
    plan = new_run(tmp_path, "launch.backend=slurm")
    mark(plan.run, "pretrain", "running")
    assert by_stage(plan)["pretrain"].state == "running"


def test_a_recorded_error_is_the_note(tmp_path):
    plan = new_run(tmp_path)
    mark(plan.run, "prepare", "running")
    write_json(plan.run.stage("prepare").error, {"exit_code": 4, "message": "corpus: empty\nmore"})
    row = by_stage(plan)["prepare"]
    assert (row.state, row.note) == ("failed", "corpus: empty")


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
    for phase in ("plan", "clean", "decide", "encode"):
        fake.states[phase] = "PENDING"
    fake.states["end"] = "PENDING"
    fake.scripts = dict.fromkeys(fake.states, tmp_path)
    jobs = {f"prepare.{job}" if job != "end" else "prepare": job for job in fake.states}
    write_json(plan.run.jobs, jobs)

    def prepare():
        rows = with_queue_notes(plan.run, run_status(plan.run, plan.recipe), Slurm(fake))
        return rows[0].state, rows[0].note

    waits = "waits jobs with a higher priority go first (Priority)"
    assert prepare() == ("waiting", f"plan {waits}")
    fake.states |= {"plan": "COMPLETED", "clean": "RUNNING"}
    begin_prepare(plan, ranges=5, cleaned=2)
    assert prepare() == ("running", "clean: 2 of 5 ranges cleaned")
    write_json(plan.run.stage("prepare").error, {"exit_code": 4, "message": "a file changed"})
    assert prepare() == ("failed", "a file changed")
    plan.run.stage("prepare").error.unlink()
    fake.states |= {"clean": "FAILED", "decide": "FAILED", "encode": "COMPLETED"}
    assert prepare() == ("waiting", waits)
    fake.states["end"] = "COMPLETED"
    mark(plan.run, "prepare", "done")
    assert prepare() == ("done", "")


def test_the_table_names_every_stage_and_unknown_figures_are_dashes(tmp_path):
    plan = new_run(tmp_path)
    lines = status_table(run_status(plan.run, plan.recipe)).splitlines()
    assert lines[0].split() == [
        "RUN", "STAGE", "STATE", "STEP", "LOSS", "TOK/S", "ETA", "RESTARTS", "NOTE",
    ]  # fmt: skip
    assert lines[2].split() == ["small", "pretrain", "waiting", "0/25", "-", "-", "-", "0"]


def test_the_status_is_json(tmp_path):
    plan = new_run(tmp_path)
    rows = [row.to_json() for row in run_status(plan.run, plan.recipe)]
    assert json.loads(json.dumps(rows))[1]["stage"] == "pretrain"


def test_the_last_records_of_a_large_file_are_read_without_its_beginning(tmp_path):
    path = tmp_path / "records"
    for number in range(3000):
        append_record(path, {"n": number, "text": "x" * 40})
    with path.open("ab") as file:
        file.write(b'{"n": 3000')
    records = last_records(path)
    assert records[-1]["n"] == 2999
    assert len(records) < 3000
