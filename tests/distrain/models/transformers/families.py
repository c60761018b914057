"""Small models of many families, made to bend: each option of attention acts on their logits.

Windows are shorter than documents, caps below the scores, sinks and biases far from zero.
"""

import math
from typing import Any

import torch
from torch import nn

from distrain.config.models.transformers import TransformersConfig
from distrain.models import build_model
from distrain.models.initial_values import keyed_generator

VOCAB_SIZE = 61
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
WINDOW = 16
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 6,
    "v_head_dim": 10,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 24,
    "rope_interleave": True,
}
SCALED = {
    "attention_multiplier": 0.3,
    "logits_scaling": 0.5,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.7,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-2": ("llama", {}),
    "llama-3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama-3.2-tied": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-size": ("llama", {"head_dim": 12}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-moe": ("qwen3_moe", {"head_dim": 8, **MOE}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 4,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 4,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
        },
    ),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {"sliding_window": WINDOW}),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 256,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "scale_attn_by_inverse_layer_idx": True,
            **NO_DROPOUT,
        },
    ),
    "gpt-neox": ("gpt_neox", {}),
    "mixtral": (
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "granite": ("granite", SCALED),
    "deepseek-v3": ("deepseek_v3", LATENT),
    "gpt-oss": (
        "gpt_oss",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
}
EXPERTS = ("qwen3-moe", "mixtral", "deepseek-v3", "gpt-oss")
"""Families whose shapes of matrices follow the routing."""


def section(name: str, **more: Any) -> TransformersConfig:
    """The section of one of ``FAMILIES``, with further keys."""
    model_type, fields = FAMILIES[name]
    sizes = {} if model_type == "gpt2" else SIZES
    return TransformersConfig(model_type=model_type, config={**sizes, **fields, **more})


def bent(name: str, seed: int = 0) -> Any:
    """A model of one of ``FAMILIES`` with values that let every option act; in ``eval`` mode."""
    model = build_model(section(name), VOCAB_SIZE).eval()
    bend(model, seed)
    return model


@torch.no_grad()
def bend(model: nn.Module, seed: int = 0) -> None:
    """Fill parameters and persistent buffers: matrices that keep sizes, the rest far from 0."""
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=keyed_generator(f"{seed}/{name}"))
        if value.ndim < 2:
            is_norm = "norm" in name or ".ln_" in name
            value.copy_(noise * 0.3 + (1.0 if is_norm and "bias" not in name else 0.0))
        elif "embed" in name or ".wte" in name or ".wpe" in name:
            value.copy_(noise * 0.5)
        else:
            value.copy_(noise * 1.2 / math.sqrt(min(value.shape[-2:])))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.rand(buffer.shape, generator=keyed_generator(f"{seed}/{name}")))
