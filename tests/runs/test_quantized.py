"""Adapters beside a base in 4 bits: trained, killed and resumed, merged, exported, built upon."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from distrain.checkpoint.dcp import read_full
from distrain.config.reading.load import load_recipe
from distrain.finetune.lora import is_adapter, is_tuned
from distrain.finetune.merged import merge
from distrain.finetune.quantized import DequantizedWeights, quantized_weights
from distrain.models.weights.source import TensorWeights, read_all
from tests.runs.forked import finish, kill_after_first_save
from tests.tiny import exact_records, tensor_digests, write_recipe

pytestmark = pytest.mark.models

STAGES = ("prepare", "pretrain", "sft", "evaluate", "export")
OVERRIDES = [
    "pretrain.model.hidden_size=64",
    "pretrain.model.intermediate_size=128",
    "sft.lora.quantization={}",
    "sft.lora.use_dora=true",
    "sft.lora.modules_to_save=[norm]",
    "sft.lora.target_modules=[q_proj, down_proj]",
    "export.reload=true",
]
"""Not every layer is adapted: the others lose bits all the same."""
DDP = ["sft.parallelism.strategy=ddp", "launch.processes_per_node=2"]


LATER = """\
  full:
    kind: sft
    needs: sft
    lora: null
    data: {truncation: cut}
    training: {max_steps: 1}
"""


def recipe_of(folder, *overrides):
    path = write_recipe(folder, processes=1, steps=10, sft_steps=10)
    return load_recipe(path, [*OVERRIDES, *overrides]).recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    recipe = recipe_of(folder)
    finish(recipe, folder / "tiny", *STAGES)
    return recipe, folder / "tiny"


def newest(run, stage):
    return max((run / stage / "checkpoints").glob("step_*"))


def start_of_sft(recipe, run):
    """Return the pretrained weights after they lost bits, and which did."""
    lora, model = recipe.stages["sft"].lora, recipe.stages["pretrain"].model
    names = quantized_weights(model, 512, lora)
    before = read_full(newest(run, "pretrain"))
    source = DequantizedWeights(TensorWeights(before), names, lora.quantization)
    return before, read_all(source), names


def test_a_checkpoint_holds_what_is_trained_and_no_base(whole):
    recipe, run = whole
    lora = recipe.stages["sft"].lora
    found = read_full(newest(run, "sft"))
    assert all(is_tuned(name, lora) for name in found)
    assert "model.norm.weight" in found
    assert {name.rpartition(".lora_")[2] for name in found if is_adapter(name)} == {
        "A.weight", "B.weight", "magnitude_vector"}  # fmt: skip


def test_what_is_exported_is_the_base_without_its_bits_and_the_adapters_merged_into_that(whole):
    recipe, run = whole
    lora = recipe.stages["sft"].lora
    before, lost, names = start_of_sft(recipe, run)
    base = load_file(run / "export/huggingface/base/model.safetensors")
    merged = load_file(run / "export/huggingface/model.safetensors")
    expected = merge(lost, read_full(newest(run, "sft")), lora)
    for name in base:
        assert torch.equal(base[name], lost[name]), name
        assert torch.equal(merged[name], expected[name]), name
        assert torch.equal(base[name], before[name]) == (name not in names), name
    wrong = merge(before, read_full(newest(run, "sft")), lora)
    assert not torch.equal(merged["model.layers.0.mlp.down_proj.weight"],
                           wrong["model.layers.0.mlp.down_proj.weight"])  # fmt: skip
    reload = json.loads((run / "export/result.json").read_text())["reload"]
    assert reload["compared"]
    assert reload["largest_difference"] < 1e-4


def test_training_measures_what_the_export_computes(whole):
    _, run = whole
    result = json.loads((run / "sft/result.json").read_text())
    assert result["eval_loss"] < result["eval_loss_base"]
    answers = json.loads((run / "evaluate/result.json").read_text())["answers"]
    assert answers["loss"] < answers["loss_base"]


def copied(twin, folder):
    run = folder / "tiny"
    for stage in ("prepare", "pretrain"):
        shutil.copytree(twin / stage, run / stage)
    return run


def assert_resumed(recipe, run, twin):
    kill_after_first_save(recipe, run, "sft")
    finish(recipe, run, "sft")
    assert exact_records(run, "sft") == exact_records(twin, "sft")
    assert tensor_digests(run, "sft") == tensor_digests(twin, "sft")


def test_a_killed_stage_ends_as_its_twin(whole, tmp_path):
    recipe, twin = whole
    assert_resumed(recipe, copied(twin, tmp_path), twin)


def test_two_replicas_learn_the_same_and_resume(whole, tmp_path):
    _, alone = whole
    (tmp_path / "both").mkdir()
    (tmp_path / "cut").mkdir()
    recipe = recipe_of(tmp_path, *DDP, "sft.model.dropout=0")
    run = copied(alone, tmp_path / "both")
    finish(recipe, run, "sft")
    assert_resumed(recipe, copied(alone, tmp_path / "cut"), run)
    single = copied(alone, tmp_path / "single")
    finish(recipe_of(tmp_path / "single", "sft.model.dropout=0"), single, "sft")
    losses = [
        [r["train/loss"] for r in exact_records(found, "sft") if r["train/loss"] is not None]
        for found in (run, single)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


FORMS = [
    "sft.lora.quantization=null",
    "sft.lora.use_rslora=true",
    "sft.lora.rank_pattern={q_proj: 2}",
    "launch.processes_per_node=2",
]
ENGINES = {
    "ddp": ["sft.parallelism.strategy=ddp"],
    "fsdp": ["sft.parallelism.strategy=fsdp"],
    "zero2": ["sft.parallelism.strategy=deepspeed", "sft.parallelism.zero_stage=2"],
}


@pytest.mark.parametrize("engine", ENGINES)
def test_each_form_of_adapters_resumes_under_an_engine(whole, tmp_path, engine):
    _, alone = whole
    (tmp_path / "both").mkdir()
    (tmp_path / "cut").mkdir()
    recipe = recipe_of(tmp_path, *FORMS, *ENGINES[engine])
    run = copied(alone, tmp_path / "both")
    finish(recipe, run, "sft")
    assert_resumed(recipe, copied(alone, tmp_path / "cut"), run)
    # The control: what is compared tells another seed of the adapters apart.
    other = copied(alone, tmp_path / "other")
    finish(recipe.model_copy(update={"seed": recipe.seed + 1}), other, "sft")
    assert tensor_digests(other, "sft") != tensor_digests(run, "sft")


def test_a_later_stage_starts_from_the_merged_weights(whole, tmp_path):
    _, twin = whole
    run = copied(twin, tmp_path)
    shutil.copytree(twin / "sft", run / "sft")
    path = tmp_path / "tiny.yaml"
    write_recipe(tmp_path, processes=1, steps=10, sft_steps=10)
    path.write_text(path.read_text().replace("  evaluate:", LATER + "  evaluate:"))
    zero = ["full.optimizer.learning_rate=1e-30", "full.optimizer.weight_decay=0",
            "full.lr_scheduler.warmup_steps=0"]  # fmt: skip
    finish(load_recipe(path, [*OVERRIDES, *zero]).recipe, run, "full")
    merged = load_file(twin / "export/huggingface/model.safetensors")
    found = read_full(newest(run, "full"))
    for name, tensor in merged.items():
        # A step of 1e-30 moves nothing but the zeros that 4 bits have made.
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-29)
