"""Which layers of a model tensor parallelism cuts, and how: a plan as data, read without torch.

A plan maps names of modules or parameters to styles, as transformers' ``base_model_tp_plan`` does:
``layers.*.mlp.up_proj: colwise``. ``*`` stands for the number of a layer, and names begin below the
decoder (``model.`` or ``transformer.`` may be written before them). What a plan does not name is
held whole by every rank. Embedding and output layer are cut by tokens whatever it says.
"""

import re
from collections.abc import Mapping

from distrain.config.models.family import ModelConfig
from distrain.config.models.transformers.table import family_table

TENSOR_STYLES: Mapping[str, str] = {
    "colwise": "each rank computes some of the layer's outputs",
    "rowwise": "each rank computes with some of its inputs; outputs are summed",
    "colwise_gather_output": "colwise, and every rank gets all outputs",
    "rowwise_split_input": "rowwise, of inputs that every rank has",
    "packed_colwise": "colwise, of two matrices of one size in one (gate and up)",
    "packed_qkv": "colwise, of queries, keys and values in one matrix, one after the other",
    "replicated_with_grad_allreduce": "held whole, used on a part of the heads",
    "moe_tp_experts": "stacked experts, of each of which every rank has a part",
    "embedding_rowwise": "a table of which each rank has some tokens",
    "replicate": "held whole",
}
"""What a plan may say of a module or parameter; the first eight are transformers' words but for
``packed_qkv``."""

OWN_PLANS: Mapping[str, Mapping[str, str]] = {
    # No plan in transformers; its layers have their inputs first.
    "gpt2": {
        "h.*.attn.c_attn": "packed_qkv",
        "h.*.attn.c_proj": "rowwise",
        "h.*.mlp.c_fc": "colwise",
        "h.*.mlp.c_proj": "rowwise",
    },
    # transformers' gathers queries, keys and values, so that each rank attends with all heads.
    "phi3": {
        "layers.*.self_attn.qkv_proj": "packed_qkv",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_up_proj": "packed_colwise",
        "layers.*.mlp.down_proj": "rowwise",
    },
}
"""By ``model_type``; goes before what the family itself says."""


def plan_of(model: ModelConfig, tp_plan: Mapping[str, str]) -> dict[str, str]:
    """Return the plan of a model: the recipe's, else ours, else that of its family.

    Returns:
        Pattern -> style, not checked; empty where nobody has one.
    """
    family = model.family_name
    return dict(tp_plan or OWN_PLANS.get(family) or family_table().tensor_plan(family))


def unknown_styles(plan: Mapping[str, str]) -> list[str]:
    """List what a plan says that is no style here."""
    return sorted({style for style in plan.values() if style not in TENSOR_STYLES})


def style_of(plan: Mapping[str, str], name: str) -> str | None:
    """Return what the first fitting pattern says of a module or parameter of a whole model."""
    for pattern, style in plan.items():
        fitting = re.escape(pattern).replace(r"\*", r"\d+")
        if re.fullmatch(rf"(\w+\.)?{fitting}", name):
            return style
    return None
