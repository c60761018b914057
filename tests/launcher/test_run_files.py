import shlex
from dataclasses import replace

import pytest

from distrain.config.reading.load import load_recipe, read_resolved
from distrain.config.recipe import Recipe, SftStage
from distrain.errors import NotFoundError, PreflightError
from distrain.runs.folder import RunFolder
from distrain.runs.lock import hold
from distrain.runs.records import read_json, write_json
from launcher import run_files
from launcher.run_changes import compare_recipes, refuse_built_on
from launcher.run_files import (
    as_in_folder,
    change_run,
    find_run,
    make_folder,
    open_run,
    run_of,
)
from tests.distrain.optim.toys import registered
from tests.distrain.tasks import pairwise
from tests.launcher.small_run import RECIPE, load_small, new_run, write_recipe


@pytest.fixture(autouse=True)
def runs_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_a_new_run_keeps_the_recipe_as_written_and_resolved(tmp_path):
    loaded = load_small(tmp_path, "seed=9")
    run = run_of(loaded.recipe)
    make_folder(run)

    assert open_run(run, loaded) is None

    assert run.recipe.read_text() == loaded.text
    assert read_resolved(run.resolved) == loaded.recipe
    environment = read_json(run.environment)
    assert environment is not None
    assert environment["packages"]["pydantic"]
    assert environment["hostname"]


def test_the_resolved_recipe_gives_the_same_run_again(tmp_path):
    plan = new_run(tmp_path)
    again = load_recipe(plan.run.resolved)
    assert open_run(plan.run, again) == []


def test_another_launch_is_taken_over(tmp_path):
    plan = new_run(tmp_path)
    changes = open_run(plan.run, load_small(tmp_path, "launch.max_restarts=9"))
    assert [str(change) for change in changes or ()] == ["launch.max_restarts 1 -> 9"]
    assert read_resolved(plan.run.resolved).launch.max_restarts == 9


def test_a_recipe_edited_before_anything_was_built_on_it_is_taken(tmp_path):
    plan = new_run(tmp_path)
    mark(plan.run, "prepare", "running", step=0)  # it was started, and fell or was refused
    write_json(plan.run.stage("prepare").error, {"exit_code": 4, "message": "no such file"})
    edited = load_small(tmp_path, "prepare.data.min_characters=5", "seed=9")
    edited = replace(edited, text=edited.text + "# edited\n")

    changes = open_run(plan.run, edited)

    assert [str(change) for change in changes or ()] == [
        "seed 0 -> 9",
        "prepare.data.min_characters 1 -> 5",
    ]
    assert read_resolved(plan.run.resolved) == edited.recipe
    assert plan.run.recipe.read_text() == edited.text


def test_what_no_stage_has_built_on_is_taken_from_an_edited_recipe(tmp_path):
    plan = new_run(tmp_path)
    mark(plan.run, "prepare", "done")
    wanted = load_small(tmp_path, "pretrain.model.hidden_size=64", "pretrain.training.max_steps=9")
    assert len(open_run(plan.run, wanted) or ()) == 2
    mark(plan.run, "pretrain", "stopped")
    longer = load_small(tmp_path, "pretrain.model.hidden_size=64", "pretrain.training.max_steps=7")
    assert len(open_run(plan.run, longer) or ()) == 1
    mark(plan.run, "pretrain", "done")
    other = load_small(
        tmp_path,
        "pretrain.model.hidden_size=64",
        "pretrain.training.max_steps=7",
        "pretrain.logging.logging_steps=3",
    )
    assert [c.key for c in open_run(plan.run, other) or ()] == ["pretrain.logging.logging_steps"]


def test_what_a_stage_has_built_on_is_refused_by_value_and_stage_and_the_run_left_alone(tmp_path):
    plan = new_run(tmp_path)
    mark(plan.run, "prepare", "done")
    mark(plan.run, "pretrain", "stopped")
    before = plan.run.resolved.read_bytes()
    edited = ["prepare.data.min_characters=5", "pretrain.training.sequence_length=8", "seed=7"]

    with pytest.raises(PreflightError) as caught:
        open_run(plan.run, load_small(tmp_path, *edited))

    message = str(caught.value)
    assert "seed 0 -> 7, which stage prepare has built on (done)" in message
    assert "prepare.data.min_characters 1 -> 5, which stage prepare has built on (done)" in message
    assert "sequence_length 16 -> 8, which stage pretrain has built on (begun)" in message
    command = message.partition("`")[2].partition("`")[0]
    assert command.startswith(f"distrain run {plan.run.resolved} name=OTHER ")
    other = load_recipe(plan.run.resolved, shlex.split(command)[3:]).recipe
    assert other == load_small(tmp_path, *edited, "name=OTHER").recipe
    assert plan.run.resolved.read_bytes() == before


def test_a_stage_that_runs_now_has_read_its_recipe(tmp_path):
    plan = new_run(tmp_path)
    mark(plan.run, "prepare", "running", step=0)
    edited = load_small(tmp_path, "prepare.data.min_characters=5")
    with (
        hold(plan.run.stage("prepare").lock, "small"),
        pytest.raises(PreflightError, match=r"stage prepare has built on \(begun\)"),
    ):
        open_run(plan.run, edited)
    assert open_run(plan.run, edited)


def test_a_stage_that_was_done_and_is_left_out_is_named(tmp_path):
    plan = new_run(tmp_path)
    mark(plan.run, "prepare", "done")
    mark(plan.run, "pretrain", "done")
    mark(plan.run, "export", "done")
    assert open_run(plan.run, load_small(tmp_path)) == []
    with pytest.raises(PreflightError, match=r"export\.kind export -> null, which stage export"):
        open_run(plan.run, load_small(tmp_path, "stages.export=skip"))


def test_a_folder_with_foreign_files_is_refused(tmp_path):
    run = RunFolder(tmp_path / "runs" / "small")
    run.root.mkdir(parents=True)
    (run.root / "thesis.tex").write_text("years of work")

    with pytest.raises(PreflightError, match=r"thesis\.tex"):
        make_folder(run)


def test_a_folder_whose_creation_was_cut_short_is_taken(tmp_path):
    run = RunFolder(tmp_path / "runs" / "small")
    run.root.mkdir(parents=True)
    run.lock.touch()
    run.recipe.touch()
    make_folder(run)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file, not a folder")
    with pytest.raises(PreflightError, match="DISTRAIN_RUNS_DIR"):
        make_folder(RunFolder(tmp_path / "runs" / "small"))


def test_a_run_is_found_by_name_prefix_path_or_as_the_latest(tmp_path):
    first = new_run(tmp_path, "name=alpha-one").run
    second = new_run(tmp_path, "name=alpha-two").run
    second.events.write_text("")

    assert find_run("alpha-one").root == first.root
    assert find_run("alpha-t").root == second.root
    assert find_run(str(first.root)).root == first.root
    assert find_run(None).root == second.root
    with pytest.raises(NotFoundError, match=r"2 that start so.*alpha-one, alpha-two"):
        find_run("alpha")
    with pytest.raises(NotFoundError, match="none of that name"):
        find_run("beta")


def test_no_run_at_all_says_how_to_start_one():
    with pytest.raises(NotFoundError, match="distrain run RECIPE"):
        find_run(None)


def mark(run, stage, state, step=3):
    record = {"state": state, "attempt": 1, "step": step, "requeue": False, "time": ""}
    write_json(run.stage(stage).state, record)


@pytest.mark.parametrize(
    ("override", "is_allowed"),
    [
        ("pretrain.training.max_steps=99", True),
        ("pretrain.optimizer.learning_rate=1e-5", True),
        ("pretrain.optimizer.name=counted", False),
        ("pretrain.training.task=pairwise", False),
        ("launch.max_restarts=7", True),
        ("pretrain.model.hidden_size=64", False),
        ("pretrain.training.global_batch_size=4", True),
        ("pretrain.data.mixture.main=2", True),
        ("pretrain.data.max_epochs=2", True),
        ("pretrain.data.max_epochs.main=2", True),
        ("pretrain.data.prefetch=0", True),
        ("pretrain.data.num_threads=3", True),
        ("pretrain.data.packing=best_fit", False),
        ("pretrain.data.order.kind=blocks", False),
        ("pretrain.training.sequence_length=8", False),
        ("pretrain.eval.max_batches=3", False),
        ("pretrain.eval.eval_steps=3", True),
        ("prepare.data.min_characters=5", False),
        ("seed=3", False),
    ],
)
def test_resume_changes_only_what_nothing_was_built_on(tmp_path, override, is_allowed):
    run = new_run(tmp_path).run
    mark(run, "prepare", "done")
    mark(run, "pretrain", "stopped")
    before = read_resolved(run.resolved)
    with registered(), pairwise.registered():
        changed = load_recipe(run.resolved, [override]).recipe

    if is_allowed:
        changes = change_run(run, changed)
        assert [c.key for c in changes] == [override.partition("=")[0]]
        assert read_resolved(run.resolved) == changed
    else:
        with pytest.raises(PreflightError, match=override.partition("=")[0]):
            change_run(run, changed)
        assert read_resolved(run.resolved) == before


def test_a_begun_stage_keeps_the_loss_that_its_validations_were_compared_by(tmp_path):
    run = new_run(tmp_path).run
    written = load_recipe(run.resolved).recipe.model_dump(mode="json")
    written["stages"]["dpo"] = {
        "kind": "preference",
        "needs": ["pretrain"],
        "training": written["stages"]["pretrain"]["training"] | {"task": "preference"},
        "data": {"path": "pairs.jsonl"},
    }
    old = Recipe.model_validate(written)
    for setting, value in (("loss", "ipo"), ("beta", 0.3)):
        written["stages"]["dpo"]["preference"] = {setting: value}
        new = Recipe.model_validate(written)
        changes = refuse_built_on(run, old, new)  # nothing was made so far
        assert [change.key for change in changes] == [f"dpo.preference.{setting}"]
        mark(run, "dpo", "stopped")
        with pytest.raises(PreflightError, match=rf"dpo\.preference\.{setting} .* begun"):
            refuse_built_on(run, old, new)
        mark(run, "dpo", "stopped", step=0)


def test_a_mixture_is_changed_and_taken_back_but_not_of_a_stage_that_is_done(tmp_path):
    run = new_run(tmp_path).run
    mark(run, "pretrain", "stopped")
    weights = load_recipe(run.resolved, ["pretrain.data.mixture.main=2"]).recipe
    assert [str(c) for c in change_run(run, weights)] == ["pretrain.data.mixture.main null -> 2.0"]
    none = load_recipe(run.resolved, ["pretrain.data.mixture=null"]).recipe
    assert [str(c) for c in change_run(run, none)] == ["pretrain.data.mixture.main 2.0 -> null"]
    mark(run, "pretrain", "done")
    with pytest.raises(PreflightError, match=r"data\.mixture\.main null -> 2"):
        change_run(run, weights)


@pytest.mark.parametrize("length", ["max_tokens=1000", "num_epochs=2"])
def test_a_batch_size_that_would_move_the_end_is_refused_with_the_steps_that_are_left(
    tmp_path, length
):
    setting = f"pretrain.training.{length}"
    run = new_run(tmp_path, "pretrain.training.max_steps=null", setting).run
    write_json(run.stage("pretrain").data, {"max_steps": 31})
    smaller = ["pretrain.training.global_batch_size=4"]
    change_run(run, load_recipe(run.resolved, smaller).recipe)  # nothing was made so far
    change_run(run, load_recipe(run.resolved, ["pretrain.training.global_batch_size=2"]).recipe)
    mark(run, "pretrain", "stopped")

    with pytest.raises(PreflightError) as caught:
        change_run(run, load_recipe(run.resolved, smaller).recipe)

    # Three steps of two were made; the other 28 are 14 of four.
    remedy = str(caught.value).partition("Add ")[2].partition(":")[0].split()
    assert remedy == [
        "pretrain.training.max_steps=17",
        f"pretrain.training.{length.partition('=')[0]}=null",
    ]
    change_run(run, load_recipe(run.resolved, [*smaller, *remedy]).recipe)


def test_a_stage_that_has_not_started_may_change_altogether(tmp_path):
    run = new_run(tmp_path).run
    mark(run, "prepare", "done")
    change_run(run, load_recipe(run.resolved, ["pretrain.model.hidden_size=64"]).recipe)


@pytest.mark.parametrize(
    ("optimizer", "override", "is_allowed"),
    [
        ("sgd", "momentum=0.8", True),
        ("sgd", "momentum=0", False),
        ("rmsprop", "momentum=0.5", False),
        ("rmsprop", "centered=true", False),
        ("rmsprop", "alpha=0.9", True),
        ("adamw", "betas.1=0.9", True),
    ],
)
def test_a_begun_stage_keeps_what_its_optimizer_keeps(tmp_path, optimizer, override, is_allowed):
    begun = [f"pretrain.optimizer.name={optimizer}"]
    run = new_run(tmp_path, *begun).run
    mark(run, "prepare", "done")
    mark(run, "pretrain", "failed")
    recipe = load_recipe(run.resolved, [f"pretrain.optimizer.{override}"]).recipe
    if is_allowed:
        change_run(run, recipe)
    else:
        with pytest.raises(PreflightError, match="which stage pretrain has built on"):
            change_run(run, recipe)


def test_recipes_are_compared_value_by_value(tmp_path):
    old = load_small(tmp_path).recipe
    new = load_small(tmp_path, "seed=1", "optimizer.betas.1=0.99").recipe
    assert [str(change) for change in compare_recipes(old, new)] == [
        "seed 0 -> 1",
        "pretrain.optimizer.betas [0.9,0.95] -> [0.9,0.99]",
    ]


def test_a_runs_folder_whose_path_has_a_line_end_is_refused_at_its_place(tmp_path, monkeypatch):
    """The path stands in a line of a job's script, where what follows would be another line."""
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", "/data/runs\n")
    with pytest.raises(PreflightError, match=r"^DISTRAIN_RUNS_DIR: found '\\n' as character 11 of"):
        run_files.runs_dir()
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "spaces and ümlauts"))
    assert run_files.runs_dir() == tmp_path / "spaces and ümlauts"
    with pytest.raises(PreflightError, match=r"found '\\n' as character"):
        find_run(f"{tmp_path}/a\nb")


SFT = "  sft: {kind: sft, needs: pretrain, training: {max_steps: 9}}"


LORA_RATE, FULL_RATE = "learning_rate: 0.003", "learning_rate: 0.0003"


def older_run(folder):
    """A run of a version that had no ``data.truncation`` and one rate, with its tuning begun."""
    tuned = RECIPE.replace("    data: {source", "    pairs: {kind: docstrings}\n    data: {source")
    tuned = tuned.replace("  export: {", f"{SFT}\n  export: {{")
    loaded = load_recipe(write_recipe(folder, tuned))
    run = run_of(loaded.recipe)
    make_folder(run)
    assert open_run(run, loaded) is None
    lines = run.resolved.read_text().replace(LORA_RATE, FULL_RATE).splitlines(keepends=True)
    run.resolved.write_text("".join(line for line in lines if "truncation:" not in line))
    assert run.resolved.read_text() != "".join(lines)
    for stage in ("prepare", "pretrain", "sft"):
        mark(run, stage, "stopped")
    return run


def truncation_of(run):
    stage = read_resolved(run.resolved).stages["sft"]
    assert isinstance(stage, SftStage)
    return stage.data.truncation


def test_a_folder_of_an_older_version_goes_on_cutting_answers(tmp_path):
    run = older_run(tmp_path)
    assert truncation_of(run) == "cut"
    same = as_in_folder(run, load_recipe(run.resolved, ["sft.training.max_steps=99"]))
    assert [c.key for c in change_run(run, same.recipe)] == ["sft.training.max_steps"]
    assert truncation_of(run) == "cut"
    # A run that is new, and a recipe that says what it means, go by what the recipe says.
    new = load_recipe(run.recipe).recipe.stages["sft"]
    assert isinstance(new, SftStage)
    assert new.data.truncation == "refuse"
    other = as_in_folder(run, load_recipe(run.resolved, ["sft.data.truncation=refuse"]))
    with pytest.raises(PreflightError, match=r"sft\.data\.truncation cut -> refuse"):
        change_run(run, other.recipe)


def test_the_same_recipe_is_run_again_in_a_folder_of_an_older_version(tmp_path):
    run = older_run(tmp_path)
    assert FULL_RATE in run.resolved.read_text()
    assert open_run(run, load_recipe(run.recipe)) == []
    assert truncation_of(run) == "cut"
    assert LORA_RATE not in run.resolved.read_text()
    new = load_recipe(run.recipe).recipe.stages["sft"]
    assert isinstance(new, SftStage)
    assert new.optimizer.learning_rate == 0.003
