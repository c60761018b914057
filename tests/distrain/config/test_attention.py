import pytest

from distrain.config.attention import AttentionNeeds, choose_kernel

PLAIN = AttentionNeeds()
WINDOW = AttentionNeeds(window=True)
CAPPED = AttentionNeeds(softcap=True)
SINKS = AttentionNeeds(window=True, sinks=True)
DROPPED = AttentionNeeds(dropout=True)
LATENT = AttentionNeeds(two_sizes=True, head_dim=192)


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
