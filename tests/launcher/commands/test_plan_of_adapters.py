"""What the plan says that fine-tuning trains."""

import json

import pytest

from tests.launcher.small_run import write_recipe

pytestmark = pytest.mark.usefixtures("runs_dir")

SIZES = "hidden_size: 32, num_attention_heads: 4, num_key_value_heads: 4, num_hidden_layers: 2"
RECIPE = """\
name: tuned
defaults:
  training: {{sequence_length: 16, global_batch_size: 2, micro_batch_size: 2, max_steps: 4}}
stages:
  prepare:
    kind: prepare
    data: {{source: {{kind: python_stdlib}}}}
    tokenizer: {{vocab_size: 512}}
    pairs: {{kind: docstrings}}
  pretrain: {{kind: pretrain, needs: prepare, model: {{{model}}}}}
  sft: {{kind: sft, needs: pretrain, lora: {lora}}}
"""


def planned(distrain, tmp_path, model, lora="{r: 4}"):
    recipe = str(write_recipe(tmp_path, RECIPE.format(model=model, lora=lora)))
    code, out, err = distrain("plan", recipe)
    assert code == 0, err
    document = json.loads(distrain("plan", recipe, "--json")[1])
    stages = {stage["stage"]: stage for stage in document["result"]["stages"]}
    return " ".join(out.split()), stages


@pytest.mark.models  # another process imports transformers
def test_experts_are_said_to_be_frozen_under_adapters(distrain, tmp_path):
    model = f"model_type: mixtral, config: {{{SIZES}, num_local_experts: 4, intermediate_size: 48}}"
    text, stages = planned(distrain, tmp_path, model)
    assert (
        "sft trains adapters of rank 4 beside k_proj, o_proj, q_proj, v_proj; the rest, its "
        "experts included, is frozen." in text
    )
    assert stages["sft"]["adapted_layers"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert stages["pretrain"]["adapted_layers"] is None


def test_a_model_without_experts_has_none_that_are_frozen(distrain, tmp_path):
    text, _ = planned(distrain, tmp_path, SIZES, "{target_modules: [v_proj, q_proj]}")
    assert "sft trains adapters of rank 8 beside q_proj, v_proj; the rest is frozen." in text
    text, stages = planned(distrain, tmp_path, SIZES, "null")
    assert "adapters" not in text
    assert stages["sft"]["adapted_layers"] is None
