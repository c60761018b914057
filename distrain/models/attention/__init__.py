"""Layer 5: attention within documents, for every family of models."""

from distrain.models.attention.attend import attend
from distrain.models.attention.columns import Columns
from distrain.models.attention.layout import DocumentLayout, in_columns, undivided
from distrain.models.attention.plan import AttentionPlan, plan_attention
from distrain.models.attention.rule import PLAIN, AttentionRule

__all__ = [
    "PLAIN",
    "AttentionPlan",
    "AttentionRule",
    "Columns",
    "DocumentLayout",
    "attend",
    "in_columns",
    "plan_attention",
    "undivided",
]
