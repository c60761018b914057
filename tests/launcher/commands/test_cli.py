import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distrain.runs.records import write_json
from launcher.commands.show import next_steps
from tests.launcher.small_run import ROOT, new_run, write_recipe

COMMANDS = (
    *("recipes", "schema", "validate", "plan", "run", "submit", "resume", "stop", "list"),
    *("status", "logs", "report", "export", "evaluate", "generate", "chaos", "data"),
)

pytestmark = pytest.mark.usefixtures("runs_dir")


@pytest.fixture
def recipe(tmp_path):
    return str(write_recipe(tmp_path))


def test_help_names_every_command(distrain):
    code, out, _ = distrain("--help")
    assert code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["--learning_rate", "1e-4"], "optimizer.learning_rate=1e-4"),
        (["--learning-rate=1e-4"], "optimizer.learning_rate=1e-4"),
        (["--sft.lora.r=3"], "sft.lora.r=3"),
        (["--lr", "--only", "sft"], "optimizer.learning_rate=VALUE"),
        (["--seed", "3"], "seed=3"),
        (["--name=other"], "name=other"),
    ],
)
def test_an_option_that_is_a_setting_is_shown_as_one(argv, meant, distrain, recipe):
    code, _, err = distrain("run", recipe, *argv)
    assert code == 2
    assert err.endswith(f"A value of the recipe has no dashes: write {meant}.\n")


def test_an_option_that_is_nothing_is_only_refused(distrain, recipe):
    code, _, err = distrain("run", recipe, "--frobnicate")
    assert (code, "no dashes" in err) == (2, False)


def test_the_version_is_that_of_the_package(distrain):
    assert distrain("--version")[:2] == (0, "distrain 0.1.0\n")


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["valdate"], "validate"),
        (["validate"], "RECIPE"),
        (["run", "quickstart", "--onyl", "prepare"], "--only"),
        (["recipes", "--copy"], "needs the name of a recipe"),
    ],
)
def test_a_wrong_command_line_is_code_2_with_a_hint(distrain, argv, word):
    code, out, err = distrain(*argv)
    assert (code, out) == (2, "")
    assert word in err


def test_a_valid_recipe_is_one_line(distrain, recipe):
    assert distrain("validate", recipe) == (
        0,
        "ok  3 stages, pretrain: global batch 2 = 2 x 1 x 1.\n",
        "",
    )
    assert json.loads(distrain("validate", recipe, "--json")[1])["result"] == {"valid": True}


def test_a_mistake_is_code_3_with_its_place_on_stderr(distrain, tmp_path):
    path = write_recipe(tmp_path, "name: x\nstages:\n  p: {kind: prepare, dta: 1}\n")
    code, out, err = distrain("validate", str(path))
    assert (code, out) == (3, "")
    assert err.startswith("error: ")
    assert ":3:" in err


def test_a_recipe_that_is_not_there_is_code_7_with_the_closest(distrain):
    code, _, err = distrain("validate", "quickstrat")
    assert code == 7
    assert "Did you mean 'quickstart'?" in err


def test_the_plan_shows_stages_and_the_exact_commands(distrain, recipe, tmp_path):
    code, out, _ = distrain("plan", recipe, "seed=3", "--script")
    assert code == 0
    assert "Set on the command line: seed" in out
    run = tmp_path / "runs" / "small"
    assert f"-m distrain stage {run} prepare" in out
    assert f"-m distrain.fork_server {run} pretrain --ranks=1" in out
    assert not (tmp_path / "runs").exists()


LONG = """\
name: a-run-with-quite-a-long-name
stages:
  preparation_of_all_the_text_and_tokens:
    kind: prepare
    data: {source: {kind: python_stdlib}}
    pairs: {kind: docstrings}
  pretraining_on_most_of_the_web:
    kind: pretrain
    needs: preparation_of_all_the_text_and_tokens
    training: {max_tokens: 500B, global_batch_size: 4096, micro_batch_size: 4}
  fine_tuning_on_the_pairs_of_all_the_text:
    kind: sft
    needs: pretraining_on_most_of_the_web
    training: {num_epochs: 3, global_batch_size: 4096, micro_batch_size: 4}
    lora: {r: 4, alpha: 8}
launch: {backend: slurm, nodes: 128, processes_per_node: 8, prepare_tasks: 64}
"""


@pytest.mark.parametrize("recipe", ["quickstart", LONG], ids=["quickstart", "long"])
@pytest.mark.parametrize("overrides", [[], ["optimizer.learning_rate=1e-4", "seed=3"]])
def test_the_plan_fits_a_terminal(distrain, tmp_path, monkeypatch, recipe, overrides):
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", "runs")  # a path is not cut
    target = recipe if recipe == "quickstart" else str(write_recipe(tmp_path, recipe))
    code, out, err = distrain("plan", target, *overrides)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    joined = "".join(out.split())
    stages = ("prepare", "pretrain", "sft") if recipe == "quickstart" else ("_of_all", "_web")
    assert all(stage in joined for stage in stages)


def test_the_plan_is_json(distrain, recipe):
    plan = json.loads(distrain("plan", recipe, "--json", "launch.processes_per_node=2")[1])
    stage = plan["result"]["stages"][1]
    assert stage["world_size"] == stage["dp_replicate"] * stage["dp_shard"] == 2


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_dry_run_starts_and_writes_nothing(distrain, recipe, tmp_path, command):
    code, out, _ = distrain(command, recipe, "-n")
    assert code == 0
    assert "pretrain" in out
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_of_resume_is_about_the_run_that_was_named(distrain, tmp_path, monkeypatch):
    run = new_run(tmp_path).run
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "other"))
    code, out, _ = distrain("resume", str(run.root), "-n", "--json")
    assert (code, json.loads(out)["folder"]) == (0, str(run.root))


def test_the_schema_is_json_schema(distrain):
    schema = json.loads(distrain("schema")[1])
    assert "stages" in schema["properties"]


def test_a_shipped_recipe_is_listed_shown_and_copied_but_never_over_a_file(distrain, tmp_path):
    code, out, _ = distrain("recipes")
    assert code == 0
    assert "quickstart" in out
    text = distrain("recipes", "quickstart")[1]
    assert text == (ROOT / "recipes" / "quickstart.yaml").read_text()

    assert distrain("recipes", "quickstart", "--copy")[0] == 0
    assert (tmp_path / "quickstart.yaml").read_text() == text
    code, _, err = distrain("recipes", "quickstart", "--copy")
    assert code == 4
    assert "nothing is overwritten" in err


@pytest.mark.parametrize("command", ["status", "logs", "stop", "resume", "export", "evaluate"])
def test_a_run_that_is_not_there_is_code_7(distrain, command):
    assert distrain(command, "nope")[0] == 7


def test_hints_name_the_command_as_it_was_typed(tmp_path):
    new_run(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "generate", "small", "x"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"`{sys.executable} -m launcher export small`" in done.stderr


def test_a_run_elsewhere_is_named_by_its_folder(distrain, tmp_path, monkeypatch):
    run = new_run(tmp_path).run
    assert next_steps(run, done=False)[0] == "resume small"
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "other"))
    assert next_steps(run, done=False)[0] == "resume runs/small"
    assert "`distrain export runs/small`" in distrain("generate", "runs/small", "x")[2]
    remedy = "`distrain resume runs/small --only pretrain`"
    assert remedy in distrain("export", "runs/small")[2]


def test_a_stage_that_the_recipe_lacks_is_named(distrain, tmp_path):
    new_run(tmp_path)
    code, _, err = distrain("evaluate", "small")
    assert code == 7
    assert "evaluate: {kind: evaluate, needs: STAGE}" in err


def test_run_and_submit_point_to_each_other(distrain, recipe):
    code, _, err = distrain("run", recipe, "launch.backend=slurm")
    assert code == 3
    assert "distrain submit" in err
    code, _, err = distrain("submit", recipe)
    assert code == 3
    assert "distrain run" in err


def test_a_run_that_another_recipe_contradicts_is_code_4_and_untouched(distrain, recipe, tmp_path):
    plan = new_run(tmp_path)
    state = {"state": "done", "attempt": 1, "step": 0, "requeue": False, "time": ""}
    write_json(plan.run.stage("prepare").state, state)
    code, _, err = distrain("run", recipe, "seed=5")
    assert code == 4
    assert "seed 0 -> 5, which stage prepare has built on (done)" in err
    assert not plan.run.events.exists()


def test_a_defect_is_one_line_and_a_traceback_in_a_file(distrain, monkeypatch):
    from launcher import resources

    def broken():
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(resources, "shipped_recipes", broken)
    code, out, err = distrain("recipes")
    assert (code, out) == (1, "")
    assert "ZeroDivisionError: by nought" in err
    assert "Traceback" not in err
    path = Path(err.split("the traceback is in ")[1].strip())
    assert "Traceback" in path.read_text()
    path.unlink()


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 4), (errno.EACCES, 4), (errno.EXDEV, 1)]
)
def test_a_full_or_forbidden_disk_is_not_called_a_defect(distrain, monkeypatch, number, code):
    from launcher import resources

    def full():
        raise OSError(number, os.strerror(number), "runs/small/resolved.yaml")

    monkeypatch.setattr(resources, "shipped_recipes", full)
    found, _, err = distrain("recipes")
    assert found == code
    assert "runs/small/resolved.yaml" in err
    if code == 1:
        Path(err.split("the traceback is in ")[1].strip()).unlink()


def test_ctrl_c_is_code_130(distrain, monkeypatch):
    from launcher import resources

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(resources, "shipped_recipes", interrupted)
    assert distrain("recipes")[0] == 130


def test_a_reader_that_closes_early_is_no_error(tmp_path):
    plan = new_run(tmp_path)
    log = plan.run.stage("prepare").log(1)
    log.parent.mkdir(parents=True)
    log.write_text("x" * 5_000_000)
    done = subprocess.run(
        f"{sys.executable} -c 'from launcher.commands.cli import main; raise SystemExit(main())' "
        "logs small | head -c 5; exit ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.stdout == b"xxxxx"
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
