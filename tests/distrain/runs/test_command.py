import json
import sys

import pytest

from distrain.runs.command import COMMANDS, VARIABLE, as_typed, command_again, command_of
from distrain.runs.folder import RunFolder
from distrain.runs.records import write_json
from launcher.commands.cli import app


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Two installed commands, one of them on PATH."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "distrain").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "here"))
    return tmp_path


def test_a_command_on_the_path_is_typed_by_its_name(scripts):
    assert command_of(str(scripts / "here" / "distrain"), "python3") == "distrain"


def test_any_other_is_typed_as_it_was(scripts, monkeypatch):
    assert command_of(str(scripts / "there" / "distrain"), "python3").endswith("there/distrain")
    monkeypatch.chdir(scripts)
    assert command_of("there/distrain", "python3") == "there/distrain"
    monkeypatch.setenv("PATH", "")
    assert command_of(".venv/bin/distrain", "python3") == ".venv/bin/distrain"


def test_a_module_is_typed_with_its_interpreter_and_a_test_as_usual():
    found = command_of("/site/launcher/__main__.py", ".venv/bin/python")
    assert found == ".venv/bin/python -m launcher"
    assert command_of("/site/pytest/__main__.py", "python") == "distrain"
    assert command_of(sys.argv[0], "python") == "distrain"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("Run `distrain resume small` first.", "Run `V/distrain resume small` first."),
        ("no process; distrain resume small", "no process; V/distrain resume small"),
        ("`distrain data verify x`", "`V/distrain data verify x`"),
        ("/opt/distrain run", "/opt/distrain run"),
        ("python -m distrain stage RUN", "python -m distrain stage RUN"),
        ("a defect of distrain, or of something", "a defect of distrain, or of something"),
    ],
)
def test_messages_name_what_was_typed(text, typed, monkeypatch):
    monkeypatch.setenv(VARIABLE, "V/distrain")
    assert as_typed(text) == typed
    monkeypatch.setenv(VARIABLE, "distrain")
    assert as_typed(text) == text


def test_the_commands_are_those_of_the_launcher():
    names = {command.name for command in app.registered_commands}
    assert names | {group.name for group in app.registered_groups} == set(COMMANDS)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "try")


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        (["run", "my recipe.yaml", "seed=7"], "run 'my recipe.yaml' seed=7 --from sft"),
        (["run", "a.yaml", "--from", "x", "--only=y"], "run a.yaml --from sft"),
        (["submit", "--only", "x", "a.yaml"], "submit a.yaml --from sft"),
        (["resume", "try", "seed=7"], "resume try --from sft"),
        (["resume"], "resume try --from sft"),
        ([], "resume try --from sft"),
    ],
)
def test_a_message_repeats_the_command_as_it_was_typed(run, typed, again):
    write_json(run.environment, {"command": ["/bin/distrain", *typed]})
    assert command_again(run, "--from", "sft") == f"distrain {again}"


@pytest.mark.parametrize("content", [None, {}, {"command": 7}, []])
def test_where_no_command_is_known_it_is_a_resume(run, content):
    if content is not None:
        run.root.mkdir()
        run.environment.write_text(json.dumps(content))
    assert command_again(run) == "distrain resume try"
