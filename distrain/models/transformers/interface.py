"""The one attention function of all families of transformers, and the record of its calls.

transformers calls attention through a table of functions by name. Ours has no entry in the table of
mask functions, and so no mask is built: which positions attend to which, the plan says, and
windows, caps and sinks come from each layer with the call.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, N = heads, K = key and value
heads, H = size of a head of queries and keys, X = of values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor, nn

from distrain.models.attention import AttentionPlan, AttentionRule, attend

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "distrain"
"""Name of the function in transformers' table."""
PROBED_ATTENTION = "distrain_probed"
"""The same function, with a mask function that tells what mask a family would have built."""
PLAN = "attention_plan"
"""The keyword that carries the plan through a family's modules."""
RULE_OF = {
    "scaling": "scale",
    "sliding_window": "window",
    "softcap": "softcap",
    "s_aux": "sinks",
    "dropout": "dropout",
}
"""What a layer hands to its attention function -> the field of ``AttentionRule``."""
WITHOUT_MEANING = frozenset(
    {
        *("position_ids", "position_embeddings", "cache_position", "cache", "past_key_values"),
        *("use_cache", "output_attentions", "output_hidden_states", "output_router_logits"),
        *("layer_idx", "return_dict", "num_items_in_batch"),
    }
)
"""What else reaches the function, and does not change what it computes. All other is refused."""


@dataclass
class AttentionRecord:
    """What families asked for while ``recording`` was open; one entry a call.

    Args:
        layers: The modules that called.
        windows: How far back each of them attends by its own word; ``None``: all the way.
        masks: How far back the mask reaches that the family would have built for it.
    """

    layers: list[nn.Module] = field(default_factory=list)
    windows: list[int | None] = field(default_factory=list)
    masks: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class MaskNote:
    """Stands for a mask where a family is probed: goes with a call, and is not computed with.

    Args:
        reach: How far back the mask would reach: a window, or a chunk.
    """

    reach: int | None

    def __getitem__(self, place: object) -> "MaskNote":
        return self  # some families cut masks to the number of keys

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"attention that computes with masks itself (their {name})")


_open_records: list[AttentionRecord] = []


@contextmanager
def recording() -> Iterator[AttentionRecord]:
    """Note each call of the attention function in this process."""
    record = AttentionRecord()
    _open_records.append(record)
    try:
        yield record
    finally:
        _open_records.remove(record)


def register() -> None:
    """Put the function into transformers' tables."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, attention)
    AttentionInterface.register(PROBED_ATTENTION, attention)
    AttentionMaskInterface.register(PROBED_ATTENTION, note_mask)


@contextmanager
def probed(family: "PreTrainedModel") -> Iterator[None]:
    """Let the family's calls tell which masks it would have built."""
    family.config._attn_implementation = PROBED_ATTENTION
    try:
        yield
    finally:
        family.config._attn_implementation = ATTENTION


@contextmanager
def masks_without_values() -> Iterator[None]:
    """Let masks be asked for on the meta device.

    Before it asks a mask function, transformers looks at the values of positions, to find rows of
    several documents. What it finds goes into a mask, of which only the reach is noted.
    """
    from transformers import masking_utils

    find = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = find


def note_mask(*, local_size: int | None = None, **settings: object) -> MaskNote:
    """Note which mask a family would have built, and build none."""
    del settings
    return MaskNote(local_size)


def attention(
    module: nn.Module,
    q_BNTH: Tensor,
    k_BKTH: Tensor,
    v_BKTX: Tensor,
    attention_mask: MaskNote | None,
    **asked: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Attend by the plan of the forward pass and the rule of the layer that calls.

    Returns:
        Shape (B, T, N, X), and no weights.

    Raises:
        ValueError: The layer asks for something that the function does not compute.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    plan: AttentionPlan | None = given.pop(PLAN, None)
    is_causal = given.pop("is_causal", True) and getattr(module, "is_causal", True)
    unknown = sorted(given.keys() - RULE_OF.keys() - WITHOUT_MEANING)
    if plan is None:
        raise ValueError(f"{type(module).__name__} does not hand on what it was given")
    if unknown or not is_causal or not isinstance(attention_mask, MaskNote | None):
        found = ", ".join([*unknown, f"is_causal {is_causal}", f"mask {attention_mask}"])
        raise ValueError(f"{type(module).__name__} attends in a way of its own: {found}")
    rule = AttentionRule(**{RULE_OF[name]: given[name] for name in given.keys() & RULE_OF.keys()})
    for record in _open_records:
        record.layers.append(module)
        record.windows.append(rule.window)
        record.masks.append(None if attention_mask is None else attention_mask.reach)
    # Contiguous, as some families change its shape by ``view``; mostly it is so already.
    return attend(q_BNTH, k_BKTH, v_BKTX, plan, rule).transpose(1, 2).contiguous(), None
