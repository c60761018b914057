import subprocess

import pytest

from distrain.errors import ExitCode
from distrain.runs.records import is_done, write_json
from launcher.backends.local import StageFailedError
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


def test_nobody_is_asked_about_what_has_no_digest_or_is_not_done(plan, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    write_json(plan.run.stage("pretrain").state, DONE | {"state": "stopped"})
    for name in ("prepare", "pretrain"):
        reopen_damaged(plan, name, lambda _: None)
