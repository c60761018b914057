import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from distrain.config.reading.load import dump_resolved, json_schema, load_recipe
from tests.distrain.config.conftest import TINY

ROOT = Path(__file__).parents[4]
SCHEMA = json_schema()


def errors_of(text):
    content = json.loads(json.dumps(YAML(typ="safe", pure=True).load(text)))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [error.message for error in validator.iter_errors(content)]


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_recipes_obey_it(file):
    assert errors_of(file.read_text()) == []


def test_units_extends_and_incomplete_layers_obey_it():
    assert errors_of(TINY.replace("max_steps: 10", "max_tokens: 2.5B")) == []
    assert errors_of("extends: base.yaml\nstages: {sft: {lora: {r: 4}}}\n") == []
    assert errors_of("extends: base.yaml\ndefaults: {training: {max_tokens: 1M}}\n") == []
    for stage in (
        "{needs: base, data: {path: a}}",
        "{micro_batch_size: 4}",
        "{pairs: {kind: none}}",
    ):
        assert errors_of(f"extends: base.yaml\nstages: {{any: {stage}}}\n") == []
    assert errors_of(TINY.replace("{processes_per_node", "{time_limit: 1d12h, nodes")) == []


def test_a_resolved_recipe_obeys_it(recipe):
    assert errors_of(dump_resolved(load_recipe(recipe).recipe)) == []


@pytest.mark.parametrize(
    ("found", "replaced"),
    [
        ("seed: 1", "sead: 1"),
        ("micro_batch_size", "microbatch_size"),
        ("kind: pretrain", "kind: pretrian"),
        ("max_steps: 10", "max_step: 10"),
        ("learning_rate: 1e-3", "learning_rate: -1"),
        ("kind: python_stdlib", "kind: stdlib"),
        ("{processes_per_node", "{time_limit: 24, nodes"),
        ("name: tiny\n", ""),
        ("optimizer: {learning_rate: 2", "tokenizer: {vocab_size: 2"),
    ],
)
def test_what_the_loader_refuses_the_editor_marks(found, replaced):
    assert found in TINY
    assert errors_of(TINY.replace(found, replaced)) != []


@pytest.mark.parametrize(
    "stage", ["{training: {max_step: 3}}", "{lorra: {r: 4}}", "{data: {pth: a}}", "{lora: {r: x}}"]
)
def test_a_stage_that_leaves_its_kind_to_a_parent_is_marked_too(stage):
    assert errors_of(f"extends: base.yaml\nstages: {{sft: {stage}}}\n") != []


def test_every_key_with_a_docstring_has_a_description():
    training = SCHEMA["$defs"]["TrainingConfig"]["properties"]
    assert training["global_batch_size"]["description"] == (
        "Sequences per optimizer step, over all ranks."
    )
    assert SCHEMA["properties"]["name"]["description"] == "Also the name of the run folder."
    assert "description" in SCHEMA["$defs"]["EarlyStopping"]["properties"]["min_delta"]
    data = SCHEMA["properties"]["defaults"]["properties"]["data"]["properties"]  # of several forms
    assert [key for key, value in data.items() if not {"description", "$ref"} & value.keys()] == []
