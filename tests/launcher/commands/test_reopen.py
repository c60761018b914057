import os
import subprocess

import pytest

from distrain.errors import ExitCode, PreflightError
from distrain.runs.products import Product, write_sources
from distrain.runs.records import is_done, write_json
from launcher.backends.supervise import StageFailedError
from launcher.commands.cli import main
from launcher.commands.reopen import reopen_damaged
from tests.launcher.small_run import new_run

DONE = {"state": "done", "attempt": 1, "step": 20, "requeue": False, "time": ""}


@pytest.fixture
def plan(tmp_path):
    plan = new_run(tmp_path)
    for name in plan.recipe.stages:
        write_json(plan.run.stage(name).state, DONE)
    write_json(plan.run.stage("pretrain").result, {"steps": 20})
    return plan


def test_the_runtime_is_asked_and_its_answer_shown(plan):
    said: list[str] = []
    reopen_damaged(plan, "pretrain", said.append)
    assert said == [
        "pretrain: no checkpoint of step 20 (there are: none at all); "
        "made again from step 0, for no checkpoint is whole"
    ]
    assert not is_done(plan.run, "pretrain")


def test_what_keeps_it_from_an_answer_is_an_error_with_its_code(plan, monkeypatch):
    told = subprocess.CompletedProcess([], 0, stdout='{"text": "no access", "exit_code": 6}')
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: told)
    with pytest.raises(StageFailedError, match="no access") as caught:
        reopen_damaged(plan, "pretrain", lambda _: None)
    assert caught.value.exit_code is ExitCode.TRAINING


def test_a_runtime_that_ends_without_an_answer_is_no_defect_of_the_launcher(plan, monkeypatch):
    killed = subprocess.CompletedProcess([], -9, stdout=b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(PreflightError, match="exit code -9"):
        reopen_damaged(plan, "pretrain", lambda _: None)
    assert is_done(plan.run, "pretrain")


def test_a_done_stage_on_another_product_is_refused_before_anything_is_queued(
    tmp_path, monkeypatch, capsys
):
    plan = new_run(tmp_path, "launch.backend=slurm")
    for name in ("pretrain", "export"):
        write_json(plan.run.stage(name).state, DONE)
    write_json(plan.run.stage("pretrain").result, {"steps": 20})
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f"#!/bin/sh\ntouch {tmp_path / 'queued'}\necho 7\n")
    sbatch.chmod(0o755)
    for command in ("squeue", "scontrol"):
        (sbatch.parent / command).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=os.pathsep)
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(plan.run.root.parent))
    submit = ["submit", str(tmp_path / "small.yaml"), "launch.backend=slurm"]
    write_sources(plan.run.stage("export"), {"pretrain": Product(15)})
    assert main(submit) == ExitCode.PREFLIGHT
    assert "stage export: found that it was built on step 15" in capsys.readouterr().err
    assert not (tmp_path / "queued").exists()
    write_sources(plan.run.stage("export"), {"pretrain": Product(20)})
    assert main(submit) == ExitCode.DONE
    assert (tmp_path / "queued").exists()


def test_nobody_is_asked_about_what_has_no_digest_or_is_not_done(plan, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    write_json(plan.run.stage("pretrain").state, DONE | {"state": "stopped"})
    for name in ("prepare", "pretrain"):
        reopen_damaged(plan, name, lambda _: None)
