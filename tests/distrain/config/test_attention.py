from dataclasses import replace
from unittest.mock import ANY

import pytest

from distrain.config.attention import AttentionNeeds, choose_kernel
from distrain.config.models import LlamaConfig
from distrain.config.models.transformers import TransformersConfig

PLAIN = AttentionNeeds()
WINDOW = AttentionNeeds(window=True)
CAPPED = AttentionNeeds(softcap=True)
SINKS = AttentionNeeds(window=True, sinks=True)
DROPPED = AttentionNeeds(dropout=True)
LATENT = AttentionNeeds(two_sizes=True, head_dim=192)


def family(model_type):
    return TransformersConfig(model_type=model_type)


@pytest.mark.parametrize(
    ("device", "precision", "needs", "whole_rows", "divided_rows"),
    [
        ("cpu", "fp32", PLAIN, "sdpa", "sdpa"),
        ("cpu", "bf16", WINDOW, "sdpa", "sdpa"),
        ("cpu", "fp32", CAPPED, "softmax", "softmax"),
        ("cpu", "fp32", SINKS, "softmax", "softmax"),
        ("cpu", "fp32", DROPPED, "softmax", "softmax"),
        ("cpu", "fp32", LATENT, "softmax", "softmax"),
        ("cuda", "bf16", PLAIN, "sdpa", "varlen"),
        ("cuda", "bf16", LATENT, "sdpa", "varlen"),
        ("cuda", "bf16", WINDOW, "varlen", "varlen"),
        ("cuda", "fp32", WINDOW, "sdpa", "sdpa"),
        ("cuda", "bf16", AttentionNeeds(head_dim=512), "sdpa", "sdpa"),
        ("cuda", "bf16", CAPPED, "flex", "flex"),
        ("cuda", "fp32", SINKS, "flex", "flex"),
        ("cuda", "fp64", SINKS, "softmax", "softmax"),
        ("cuda", "bf16", DROPPED, "sdpa", "sdpa"),
        ("cuda", "bf16", AttentionNeeds(softcap=True, dropout=True), "softmax", "softmax"),
    ],
)
def test_the_kernel_follows_from_what_is_needed(device, precision, needs, whole_rows, divided_rows):
    assert choose_kernel(device, precision, needs, divided=False) == whole_rows
    assert choose_kernel(device, precision, needs, divided=True) == divided_rows


@pytest.mark.parametrize(
    ("config", "needs"),
    [
        (LlamaConfig(attention_dropout=0.1), AttentionNeeds(dropout=True, head_dim=48)),
        (family("qwen2"), AttentionNeeds()),
        (family("mistral"), AttentionNeeds(window=True, head_dim=ANY)),
        (family("gemma2"), AttentionNeeds(window=True, softcap=True, head_dim=ANY)),
        (family("gpt_oss"), AttentionNeeds(window=True, sinks=True)),
        (family("gpt2"), AttentionNeeds(dropout=True)),
        (family("deepseek_v3"), AttentionNeeds(two_sizes=True, head_dim=192)),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_what_a_family_needs_is_read_from_its_settings(config, needs):
    assert replace(config.attention_needs, head_dim=ANY) == replace(needs, head_dim=ANY)
    assert config.attention_needs.head_dim == needs.head_dim
