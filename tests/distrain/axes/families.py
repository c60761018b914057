"""The families that are laid over axes: tiny, and made to bend.

Weights are drawn wide, so that attention is sharp: a head that is swapped or a document that is
lost moves the loss. Norms and biases are drawn too: as constants, one that is counted twice, or
left out of a sum, would not show. Windows are shorter than documents.
"""

from typing import Any

import torch

from distrain.config.models import LlamaConfig, ModelConfig, TransformersConfig
from distrain.models.causal_lm import CausalLM
from distrain.models.initial_values import Constant, Normal, ValueRule
from tests.distrain.models.transformers.families import LATENT

STD, NOISE = 0.2, 0.1
"""Of matrices; of norms and biases, around the constant that the family begins with."""
WINDOW = 24
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "initializer_range": STD,
}
# By default a padding token begins as a row of zeros. A norm divides by it, layer after layer, and
# gradients overflow; gpt2's table of positions keeps it from that, and is tied besides.
NO_PADDING = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
PADDING = {**NO_PADDING, "pad_token_id": 0}
PLAIN = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
GPT2_SIZES = {
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": STD,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
SCALED = {"attention_multiplier": 0.25, "embedding_multiplier": 2.0, "logits_scaling": 2.0}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen3": {**SIZES, "head_dim": 16},
    "mistral": {**SIZES, "sliding_window": None},
    "phi3": SIZES,
    "gemma2": {**SIZES, "head_dim": 16, "sliding_window": WINDOW},
    "gpt2": GPT2_SIZES,
    "olmo2": SIZES,
    "mixtral": {**SIZES, "sliding_window": None, "num_local_experts": 4},
    "qwen3_moe": {**SIZES, **MOE},
    "gpt_neox": PLAIN,
    "gemma3_text": {**SIZES, "head_dim": 16, "sliding_window": WINDOW},
    "granite": {**SIZES, **SCALED},
}
"""``model_type`` -> its ``config``: the twelve of transformers; ``ours`` is the thirteenth."""
OURS = "ours"
"""The decoder whose code is our own."""
EVERY_FAMILY = (OURS, *FAMILIES)
EXPERTS = ("mixtral", "qwen3_moe")
OF_TWO = {"num_experts_per_tok": 2}
OTHER_MIXTURES: dict[str, dict[str, Any]] = {
    "deepseek_v3": {**SIZES, **LATENT},
    "gpt_oss": {
        **SIZES,
        **OF_TWO,
        "head_dim": 16,
        "num_local_experts": 4,
        "sliding_window": WINDOW,
    },
    "olmoe": {**SIZES, **OF_TWO, "num_experts": 4},
    "qwen2_moe": {**SIZES, **MOE, "shared_expert_intermediate_size": 48},
}
"""Experts that gather in groups, have biases, or lie beside shared ones."""
LOOSE = {"mixtral": 5e-5, "granite": 5e-5}
"""Families whose rounding grows from step to step; of the others, losses differ by 1e-5 at most."""


def reach_of(family: str) -> float:
    """Return by how much a loss may differ from that of one process, in nats."""
    return LOOSE.get(family, 1e-5)


def model_section(family: str, **more: Any) -> ModelConfig:
    """Return the recipe's ``model`` of a family, with further keys."""
    if family == OURS:
        return LlamaConfig(**{**SIZES, **more})
    tokens = PADDING if family == "gpt2" else NO_PADDING
    sizes = (FAMILIES | OTHER_MIXTURES)[family]
    return TransformersConfig(model_type=family, config={**tokens, **sizes, **more})


def noisy(model: CausalLM) -> CausalLM:
    """Let what would begin as constants be drawn around them, the same under every layout.

    Through the model's own rules: whatever part a rank holds of a parameter, it draws that part.
    """
    own = model.family_rule

    def rule_of(name: str, shape: torch.Size) -> ValueRule:
        rule = own(name, shape)
        return Normal(NOISE, rule.value) if isinstance(rule, Constant) else rule

    model.family_rule = rule_of  # type: ignore[method-assign]
    return model
