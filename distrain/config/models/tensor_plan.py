"""Which layers of a model tensor parallelism cuts, and how: a plan as data, read without torch.

A plan maps names of modules or parameters to styles, as transformers' ``base_model_tp_plan`` does:
``layers.*.mlp.up_proj: colwise``. ``*`` stands for the number of a layer, and a pattern fits the
end of a name from a dot on (``model.`` or ``model.decoder.`` need not be written before it). What a
plan does not name is held whole by every rank. Embedding and output layer are cut by tokens
whatever it says.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

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

PLAN_EXAMPLE = (
    "{layers.*.mlp.gate_proj: colwise, layers.*.mlp.up_proj: colwise, "
    "layers.*.mlp.down_proj: rowwise}"
)
"""Of a gated layer; one without a gate has no ``gate_proj``."""
LEAVING_PARTS = ("colwise", "packed_colwise", "packed_qkv")
"""Styles whose ranks hand on their own outputs, which only ``rowwise`` takes back together."""

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
    return next((style for pattern, style in plan.items() if _fits(pattern, name)), None)


def cuts_heads(plan: Mapping[str, str]) -> bool:
    """Whether some rank attends with a part of the heads; a plan may gather all of them."""
    return any(style in LEAVING_PARTS for name, style in plan.items() if _is_attention(name))


def cuts_columns(plan: Mapping[str, str]) -> bool:
    """Whether a rank has a part of the columns of a plain feed-forward layer."""
    others = (style for name, style in plan.items() if not _is_attention(name))
    return any(style in ("colwise", "colwise_gather_output") for style in others) or any(
        style == "packed_colwise" and "experts" not in name for name, style in plan.items()
    )


def _is_attention(name: str) -> bool:
    return "attn" in name or "attention" in name


def unfitting_patterns(plan: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """List the patterns that fit none of the names."""
    known = list(names)
    return [pattern for pattern in plan if not any(_fits(pattern, name) for name in known)]


def open_ends(plan: Mapping[str, str], linear_layers: Iterable[str]) -> Iterator[str]:
    """Say where the ranks' parts meet what is whole: such a plan fails, or computes nonsense.

    Layers of one module go together: whatever reads the stream beside a layer that leaves parts
    leaves parts too, and another one puts them together. Whoever holds one whole on purpose, such
    as the latent projections of some attention, names it as ``replicate``.

    Args:
        plan: Pattern -> style.
        linear_layers: Names of all of them, or of as many as are known.
    """
    modules: dict[str, dict[str, str | None]] = {}
    for name in linear_layers:
        parent, _, layer = name.rpartition(".")
        modules.setdefault(parent, {})[layer] = style_of(plan, name)
    for parent, layers in modules.items():
        leaving = [layer for layer, style in layers.items() if style in LEAVING_PARTS]
        taking = [layer for layer, style in layers.items() if style == "rowwise"]
        whole = [layer for layer, style in layers.items() if style is None]
        if (leaving or taking) and whole:
            cut = f"{' and '.join([*leaving, *taking])} of {parent} cut"
            yield f"{cut}, and {' and '.join(whole)} beside held whole"
        elif leaving and not taking:
            yield f"{' and '.join(leaving)} of {parent} colwise, and no layer beside rowwise"
        elif taking and not leaving:
            yield f"{' and '.join(taking)} of {parent} rowwise, and no layer beside colwise"


def _fits(pattern: str, name: str) -> bool:
    fitting = re.escape(pattern).replace(r"\*", r"\d+")
    return re.fullmatch(rf"(\w+\.)*{fitting}", name) is not None
