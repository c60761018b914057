"""What validate and plan say of balanced experts."""

import pytest

from launcher.inputs.balancing import note_balancing
from tests.launcher.small_run import RECIPE, load_small

SMALL = "hidden_size: 32, num_attention_heads: 4, num_key_value_heads: 4, num_hidden_layers: 2"
TRAINING = "    training: {max_steps"


def notes(tmp_path, model_type, settings):
    model = f"    model: {{model_type: {model_type}, config: {{{SMALL}, {settings}}}}}\n"
    text = RECIPE.replace(TRAINING, model + TRAINING)
    recipe = load_small(tmp_path, text=text).recipe
    return [finding.sentence for finding in note_balancing(recipe)]


@pytest.mark.parametrize(
    ("model_type", "settings", "found"),
    [
        ("mixtral", "output_router_logits: true", "0.001 times"),
        ("qwen3_moe", "output_router_logits: true, router_aux_loss_coef: 0.02", "0.02 times"),
        ("olmoe", "output_router_logits: true", "the family's coefficient times"),
        ("mixtral", "output_router_logits: true, router_aux_loss_coef: 0.0", "has no effect"),
        ("deepseek_v3", "output_router_logits: true", "deepseek_v3 has no balancing loss"),
    ],
)
def test_a_stage_that_asks_for_balancing_is_noted(model_type, settings, found, tmp_path):
    (note,) = notes(tmp_path, model_type, settings)
    assert note.startswith("pretrain: ")
    assert found in note


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("mixtral", "output_router_logits: false"),
        ("mixtral", "num_local_experts: 4"),
        ("llama", ""),
    ],
)
def test_others_are_not(model_type, settings, tmp_path):
    assert notes(tmp_path, model_type, settings) == []
