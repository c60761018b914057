"""``--json``: one form for every command that shows something."""

import json
import subprocess

import pytest

from distrain.errors import ExitCode
from distrain.runs.records import write_json
from launcher.commands import actions, cli
from tests.launcher.small_run import RECIPE, new_run, write_recipe

KEYS = ["command", "exit_code", "run", "folder", "result", "notes", "next", "errors"]
EVALUATED = RECIPE.replace("launch:", "  evaluate: {kind: evaluate, needs: pretrain}\nlaunch:")


pytestmark = pytest.mark.usefixtures("runs_dir")


@pytest.fixture
def finished(tmp_path):
    """A run whose stages are all done."""
    plan = new_run(tmp_path, text=EVALUATED)
    for name in plan.recipe.stages:
        state = {"state": "done", "attempt": 1, "step": 0, "requeue": False, "time": ""}
        write_json(plan.run.stage(name).state, state)
        plan.run.stage("export").huggingface.mkdir(parents=True, exist_ok=True)
        write_json(plan.run.stage(name).result, {"loss": float("nan")})
        plan.run.stage(name).log(1).parent.mkdir(parents=True)
        plan.run.stage(name).log(1).write_text("a\nb\n")
    return plan.run


def shown(capsys, *argv):
    code = cli.main([*argv, "--json"])
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert list(document) == KEYS
    assert document["exit_code"] == code
    assert document["command"] == " ".join(argv[:2] if argv[0] == "data" else argv[:1])
    return document


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["recipes", "quickstart"], "text"),
        (["recipes", "quickstart", "--copy"], "path"),
        (["validate", "small.yaml"], "valid"),
        (["plan", "small.yaml", "--script"], "script"),
        (["run", "small.yaml", "-n"], "stages"),
        (["run", "small.yaml"], "stages"),
        (["submit", "small.yaml", "-n", "launch.backend=slurm"], "script"),
        (["resume", "small", "-n"], "stages"),
        (["resume", "small"], "stages"),
        (["stop", "small"], "asked"),
        (["stop", "small", "-n"], "running"),
        (["list"], "runs"),
        (["status"], "stages"),
        (["logs", "small", "--tail", "1"], "lines"),
        (["report", "--output", "page.html"], "file"),
        (["export"], "folders"),
        (["evaluate"], "evaluate"),
    ],
)
def test_every_command_that_shows_something_has_the_same_form(finished, capsys, argv, key):
    document = shown(capsys, *argv)
    assert document["errors"] == []
    assert key in document["result"]
    about_a_run = argv[0] not in ("recipes", "validate", "list")
    assert document["run"] == ("small" if about_a_run else None)
    assert document["folder"] == (str(finished.root) if about_a_run else None)


def test_the_list_of_recipes_has_it_too(capsys):
    names = [recipe["name"] for recipe in shown(capsys, "recipes")["result"]]
    assert names == ["continue", "quickstart", "several_stages", "smollm2-chat", "smollm2-dpo"]


@pytest.mark.parametrize(
    ("argv", "code", "where"),
    [
        (["validate", "nothere"], 7, "recipe nothere"),
        (["status", "nothere"], 7, "run nothere"),
        (["data", "inspect", "./nothere"], 7, "./nothere"),
        (["logs", "small", "--rank", "7"], 7, "rank 7 in"),
        (["run", "small.yaml", "prepare.data.min_characters=9"], 4, "run small"),
    ],
)
def test_an_error_has_it_too(finished, capsys, argv, code, where):
    document = shown(capsys, *argv)
    assert (document["exit_code"], document["result"]) == (code, None)
    (error,) = document["errors"]
    assert error["where"].startswith(where)
    assert "expected" in error["message"]
    assert not error["message"].startswith(where)


def test_a_wrong_command_line_has_it_too(capsys):
    (error,) = shown(capsys, "validate")["errors"]
    assert error["message"] == "Missing argument 'RECIPE'."


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_command_that_was_stopped_has_it_too(command, finished, capsys, monkeypatch):
    stopped = (finished, (command,), ExitCode.STOPPED)
    monkeypatch.setattr(actions, "run_kind", lambda *arguments: stopped)
    document = shown(capsys, command, "small")
    assert (document["exit_code"], document["run"], document["result"]) == (75, "small", None)


@pytest.mark.parametrize(("code", "shown_code"), [(4, 4), (-9, 1)])
@pytest.mark.usefixtures("finished")
def test_a_model_that_cannot_be_asked_has_it_too(code, shown_code, capsys, monkeypatch):
    ended = subprocess.CompletedProcess([], code, stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: ended)
    document = shown(capsys, "generate", "small", "x")
    assert (document["exit_code"], document["run"]) == (shown_code, "small")
    assert document["result"] is None


def test_each_mistake_of_a_recipe_is_an_error_with_its_line(tmp_path, capsys):
    data = "data: {source: {kind: python_stdlib}}"
    text = f"name: x\nsed: 1\nstages:\n  p: {{kind: prepare, {data}, dta: 1}}\n"
    write_recipe(tmp_path, text)
    errors = shown(capsys, "validate", "small.yaml")["errors"]
    assert [(error["where"], error["line"]) for error in errors] == [
        ("small.yaml", 2),
        ("small.yaml", 4),
    ]
