"""What a base in 4 bits goes together with."""

import pytest

from distrain.config.reading.load import RecipeErrors, load_recipe
from distrain.errors import RecipeError
from distrain.runs.folder import RunFolder
from launcher.plan import make_plan

RECIPE = """\
name: small
stages:
  sft:
    kind: sft
    model: {from_pretrained: /nowhere}
    data: {path: pairs.jsonl}
    training: {max_steps: 9}
    lora: {quantization: {}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("override", "phrase"),
    [
        ("parallelism.strategy=fsdp", "expected single or ddp; set it to ddp"),
        ("parallelism.strategy=deepspeed", "found deepspeed with lora.quantization"),
        ("training.precision=fp64", "set precision to fp32 or bf16"),
    ],
)
def test_engines_and_precisions_that_cannot_are_refused_by_name(override, phrase, recipe):
    with pytest.raises(RecipeErrors, match=phrase):
        load_recipe(recipe, [override])


def test_what_auto_means_is_refused_when_the_processes_are_known(recipe, tmp_path):
    run = RunFolder(tmp_path / "run")
    whole = load_recipe(recipe).recipe
    layout = make_plan(whole, run, 1).stages[0].layout
    assert layout is not None
    assert layout.strategy == "single"
    with pytest.raises(RecipeError, match="found fsdp with lora"):
        make_plan(whole, run, 2)
    replicas = load_recipe(recipe, ["parallelism.strategy=ddp"]).recipe
    layout = make_plan(replicas, run, 2).stages[0].layout
    assert layout is not None
    assert layout.strategy == "ddp"
