"""Layer 5: attention within documents, for every family of models."""

from distrain.models.attention.attend import attend
from distrain.models.attention.layout import DocumentLayout, undivided
from distrain.models.attention.plan import AttentionPlan, plan_attention
from distrain.models.attention.rule import PLAIN, AttentionRule

__all__ = [
    "PLAIN",
    "AttentionPlan",
    "AttentionRule",
    "DocumentLayout",
    "attend",
    "plan_attention",
    "undivided",
]
