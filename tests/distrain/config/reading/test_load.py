import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from distrain.config.reading.load import (
    dump_resolved,
    load_recipe,
    load_site,
    read_resolved,
    recipe_fingerprint,
)
from distrain.config.reading.problems import RecipeErrors
from distrain.errors import ExitCode, NotFoundError
from tests.distrain.config.conftest import TINY, stages_of


def test_a_stage_lies_over_the_defaults_that_its_kind_has(recipe):
    stages = stages_of(load_recipe(recipe))
    assert stages["pretrain"].training.sequence_length == 64
    assert stages["pretrain"].training.max_steps == 10
    assert stages["pretrain"].optimizer.learning_rate == 1e-3
    assert stages["sft"].optimizer.learning_rate == 2e-4
    assert stages["sft"].optimizer.weight_decay == 0.1  # the schema's default


def test_fine_tuning_takes_the_sizes_of_the_model_that_it_starts_from(recipe):
    model = stages_of(load_recipe(recipe))["sft"].model
    assert (model.hidden_size, model.num_attention_heads) == (64, 2)
    assert model.dropout == 0.0  # not a size


def test_sizes_reach_fine_tuning_through_an_override_of_pretraining(recipe):
    stages = stages_of(load_recipe(recipe, ["pretrain.model.hidden_size=128"]))
    assert stages["sft"].model.hidden_size == 128


def test_defaults_of_a_section_with_two_forms_reach_each_form(recipe):
    text = TINY.replace(
        "defaults:\n",
        "defaults:\n  data: {source: {kind: python_stdlib}, path: a.jsonl, test_fraction: 0.2}\n",
    ).replace("data: {source: {kind: python_stdlib}, min", "data: {min")
    recipe.write_text(text)
    stages = stages_of(load_recipe(recipe))
    assert stages["prepare"].data.test_fraction == 0.2
    assert stages["sft"].data.path == "a.jsonl"


def test_defaults_for_data_of_other_stages_leave_fine_tuning_as_it_was(recipe):
    defaults = "  data: {packing: best_fit, mixture: {main: 1}, skip_budget: 7}\n"
    recipe.write_text(TINY.replace("defaults:\n", f"defaults:\n{defaults}"))
    stages = stages_of(load_recipe(recipe))
    assert stages["pretrain"].data.packing == "best_fit"
    assert stages["prepare"].data.skip_budget == 7
    data = stages["sft"].data
    assert (data.packing, data.mixture, data.skip_budget) == ("none", None, 0)
    recipe.write_text(
        "name: a\ndefaults: {data: {path: a.jsonl, packing: best_fit}}\nstages:\n  sft:\n"
        "    kind: sft\n    model: {from_pretrained: m}\n    training: {max_steps: 1}\n"
    )
    assert stages_of(load_recipe(recipe))["sft"].data.packing == "best_fit"


def test_a_mapping_of_another_kind_replaces_the_one_below(recipe):
    text = TINY.replace(
        "defaults:\n", "defaults:\n  data: {source: {kind: python_stdlib, exclude: [test]}}\n"
    ).replace("{kind: python_stdlib}, min", "{kind: files, paths: [a.txt]}, min")
    recipe.write_text(text)
    assert stages_of(load_recipe(recipe))["prepare"].data.source.paths == ("a.txt",)


def test_a_stage_chooses_another_length_than_the_defaults(recipe):
    recipe.write_text(TINY.replace("micro_batch_size: 4}", "micro_batch_size: 4, max_tokens: 1M}"))
    training = stages_of(load_recipe(recipe))["pretrain"].training
    assert (training.max_steps, training.max_tokens) == (10, None)


def test_parents_lie_below_in_the_order_of_the_list(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "tiny.yaml").write_text(TINY)
    (tmp_path / "base" / "more.yaml").write_text("extends: tiny.yaml\nseed: 2\n")
    (tmp_path / "wide.yaml").write_text(
        "stages: {pretrain: {model: {hidden_size: 256}}}\nseed: 3\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text("extends: [base/more.yaml, wide.yaml]\nname: child\n")
    loaded = load_recipe(child)
    assert loaded.recipe.name == "child"
    assert loaded.recipe.seed == 3
    pretrain = stages_of(loaded)["pretrain"]
    assert pretrain.model.hidden_size == 256
    assert pretrain.model.num_attention_heads == 2  # of the first parent's mapping
    assert loaded.origins["seed"] == f"{tmp_path / 'wide.yaml'}:2"
    assert loaded.text == child.read_text()


def test_lists_replace(tmp_path, recipe):
    child = tmp_path / "child.yaml"
    child.write_text("extends: tiny.yaml\ndefaults: {optimizer: {betas: [0.8, 0.9]}}\n")
    assert stages_of(load_recipe(child))["sft"].optimizer.betas == (0.8, 0.9)


def test_a_circle_of_parents_is_an_error_at_the_line_that_closes_it(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("name: b\nextends: a.yaml\n")
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(tmp_path / "a.yaml")
    assert f"{tmp_path / 'b.yaml'}:2:10: extends goes in a circle" in str(caught.value)


def test_a_mistake_in_a_parent_reached_twice_is_shown_once(tmp_path):
    (tmp_path / "base.yaml").write_text(TINY.replace("seed", "sead"))
    (tmp_path / "b.yaml").write_text("extends: base.yaml\n")
    child = tmp_path / "child.yaml"
    child.write_text("extends: [base.yaml, b.yaml]\n")
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(child)
    assert [str(problem.place) for problem in caught.value.problems] == [
        f"{tmp_path / 'base.yaml'}:2:1"
    ]


def test_every_value_knows_where_it_came_from(recipe):
    origins = load_recipe(recipe, ["optimizer.weight_decay=0.2", "launch.nodes=1"]).origins
    assert origins["stages.pretrain.training.max_steps"] == f"{recipe}:15"
    assert origins["stages.pretrain.optimizer.learning_rate"] == f"{recipe}:5"
    assert origins["stages.sft.optimizer.learning_rate"] == f"{recipe}:20"
    assert origins["stages.sft.model.hidden_size"] == f"{recipe}:14"
    assert origins["stages.sft.optimizer.weight_decay"] == "override"
    assert origins["launch.nodes"] == "override"
    assert origins["stages.sft.lora.r"] == "default"


def test_the_resolved_file_is_the_same_recipe_and_resolves_to_itself(recipe, tmp_path):
    loaded = load_recipe(recipe, ["launch.time_limit=36h", "training.max_tokens=1M"])
    text = dump_resolved(loaded.recipe)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(text)
    assert read_resolved(resolved) == loaded.recipe
    again = load_recipe(resolved)
    assert again.recipe == loaded.recipe
    assert again.notes == ()
    assert dump_resolved(again.recipe) == text
    assert "time_limit: 1d12h" in text


def test_a_resolved_file_that_was_broken_is_refused_with_its_place(recipe, tmp_path):
    resolved = tmp_path / "resolved.yaml"
    text = dump_resolved(load_recipe(recipe).recipe)
    resolved.write_text(text.replace("max_steps: 10", "max_stops: 10"))
    with pytest.raises(RecipeErrors, match=r"resolved.yaml:\d+:\d+: unknown key 'max_stops'"):
        read_resolved(resolved)


def test_the_fingerprint_ignores_where_a_recipe_runs_and_nothing_else(recipe):
    plain = recipe_fingerprint(load_recipe(recipe).recipe)
    assert recipe_fingerprint(load_recipe(recipe, ["launch.max_restarts=9"]).recipe) == plain
    for override in ("seed=2", "name=other", "sft.lora.r=4", "optimizer.eps=1e-9"):
        assert recipe_fingerprint(load_recipe(recipe, [override]).recipe) != plain


def test_a_note_tells_what_has_no_effect(recipe):
    notes = load_recipe(recipe, ["pretrain.lr_scheduler.decay_steps=5"]).notes
    assert notes == (
        "pretrain: lr_scheduler.decay_steps has no effect with lr_scheduler.name=cosine",
    )


def test_a_file_that_is_not_there_is_named_with_its_neighbour(recipe):
    with pytest.raises(NotFoundError, match=r"Use .*tiny\.yaml\.") as caught:
        load_recipe(recipe.with_name("tinny.yaml"))
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def test_the_errors_survive_pickling_and_exit_with_3(recipe):
    recipe.write_text(TINY.replace("seed", "sead"))
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(recipe)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.exit_code is ExitCode.RECIPE


def test_a_site_file_is_read_with_units(tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text("partition: gpu\ntime_limit: 24h\nsetup: [module load cuda]\nenv: {A: '1'}\n")
    config = load_site(site)
    assert (config.time_limit, config.setup, config.env) == (
        86400,
        ("module load cuda",),
        {"A": "1"},
    )


def test_skipped_stages_are_left_out(recipe):
    assert tuple(stages_of(load_recipe(recipe, skip=("sft", "evaluate")))) == (
        "prepare",
        "pretrain",
    )


def test_loading_imports_neither_torch_nor_numpy(recipe):
    code = (
        "import sys; from pathlib import Path\n"
        "from distrain.config.reading.load import load_recipe\n"
        "load_recipe(Path(sys.argv[1])); print({'torch', 'numpy'} & sys.modules.keys())"
    )
    root = Path(__file__).parents[4]
    result = subprocess.run(
        [sys.executable, "-c", code, str(recipe)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "set()"
