import os

import pytest

from distrain.runs.lock import hold
from distrain.runs.records import write_json
from launcher.backends.backend import BACKENDS
from launcher.backends.slurm.backend import SlurmBackend
from launcher.backends.slurm.client import Slurm
from launcher.commands.listing import list_lines, runs_table
from tests.launcher.backends.slurm.fake_slurm import FakeSlurm
from tests.launcher.small_run import new_run


@pytest.fixture(autouse=True)
def runs_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))


def mark(run, stage, state, step=0):
    record = {"state": state, "attempt": 1, "step": step, "requeue": False, "time": ""}
    write_json(run.stage(stage).state, record)


def slurm(fake):
    return {"slurm": SlurmBackend(Slurm(fake))}


def state_of(name, fake=None):
    (line,) = [line for line in list_lines(slurm(fake) if fake else BACKENDS) if line.run == name]
    return line.state, line.stage


def test_every_run_has_a_line_and_the_latest_is_first(tmp_path):
    for age, name in enumerate(("one", "two", "three")):
        run = new_run(tmp_path, f"name={name}").run
        os.utime(run.resolved, ns=(0, (9 - age) * 10**18))
    assert [line.run for line in list_lines()] == ["one", "two", "three"]
    text = runs_table(list_lines())
    assert text.splitlines()[0].split()[:4] == ["RUN", "STATE", "STAGE", "STEP"]
    assert max(map(len, text.splitlines())) <= 80
    assert list_lines()[0].to_json()["jobs"] == ()


def test_a_line_is_of_the_stage_that_says_most(tmp_path):
    run = new_run(tmp_path).run
    assert state_of("small") == ("waiting", "prepare")
    mark(run, "prepare", "done")
    mark(run, "pretrain", "stopped", step=3)
    assert state_of("small") == ("stopped", "pretrain")
    mark(run, "pretrain", "running", step=3)
    with hold(run.stage("pretrain").lock, "small"):
        assert state_of("small") == ("running", "pretrain")
    write_json(run.stage("export").error, {"exit_code": 4, "message": "no room"})
    assert state_of("small") == ("failed", "export")
    assert list_lines()[0].note == "why: distrain status small"
    run.stage("export").error.unlink()
    for stage in ("prepare", "pretrain", "export"):
        mark(run, stage, "done")
    assert state_of("small") == ("done", "")


def test_a_queued_run_says_so_and_slurm_is_asked_once_for_all(tmp_path):
    fake = FakeSlurm()
    for name, job in (("one", "7"), ("two", "8"), ("three", "9")):
        run = new_run(tmp_path, f"name={name}", "launch.backend=slurm").run
        write_json(run.jobs, {"prepare": job})
        fake.scripts[job] = tmp_path
    fake.states |= {"7": "PENDING", "8": "RUNNING", "9": "COMPLETED"}

    lines = {line.run: line for line in list_lines(slurm(fake))}

    assert (lines["one"].state, lines["one"].jobs) == ("queued", ("7",))
    assert "waits jobs with a higher priority go first" in lines["one"].note
    assert (lines["two"].state, lines["two"].jobs) == ("waiting", ("8",))
    assert (lines["three"].state, lines["three"].jobs) == ("waiting", ())
    assert len(fake.asked) == 1


def test_a_slurm_that_does_not_answer_hides_no_run(tmp_path):
    fake = FakeSlurm()
    fake.away = True
    write_json(new_run(tmp_path, "launch.backend=slurm").run.jobs, {"prepare": "7"})
    (line,) = list_lines(slurm(fake))
    assert line.state == "waiting"
    assert "Unable to contact" in line.note


def test_a_run_of_another_version_hides_no_other(tmp_path):
    new_run(tmp_path, "name=good")
    bad = new_run(tmp_path, "name=bad").run
    bad.resolved.write_text(bad.resolved.read_text() + "mystery: 1\n")
    lines = {line.run: line for line in list_lines()}
    assert lines["bad"].state == "unreadable"
    assert "mystery" in lines["bad"].note
    assert lines["good"].state == "waiting"
