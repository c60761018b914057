"""The section of a model that is a module of transformers: its family, and its own settings."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distrain.config.attention import AttentionNeeds
from distrain.config.models.family import (
    ModelConfig,
    ModelRefusal,
    SizeDifference,
    quantized_refusal,
)
from distrain.config.models.transformers.table import FamilyKeys, family_table

OF_FILES = frozenset(
    {
        *("architectures", "auto_map", "chunk_size_feed_forward", "dtype", "id2label", "label2id"),
        *("is_encoder_decoder", "model_type", "output_attentions", "output_hidden_states"),
        *("problem_type", "return_dict", "torch_dtype", "transformers_version", "use_cache"),
        *("vocab_size", "_name_or_path", "_attn_implementation_autoset"),
    }
)
"""Fields of a ``config.json`` that do not say what the model computes; the rows of the vocabulary
stand beside a section, not in it."""
OF_TOKENS = frozenset({"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"})
"""Fields whose defaults are of another vocabulary; the exported ones are the tokenizer's."""
PARTS = "parts beside the language model"
WITH_SINKS = {"gpt_oss"}
"""Families whose ``config.json`` does not say that their heads have sinks."""
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What families call the number of experts of a layer."""
BALANCING_KEYS = ("router_aux_loss_coef", "aux_loss_coef")
"""What families call the coefficient of the balancing loss of their experts."""
SIZE_KEYS: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "hidden_size": ("n_embd", "d_model"),
    "intermediate_size": ("n_inner", "ffn_dim"),
}
"""Common name of a size -> what families call it of which the table holds no keys."""
NO_LIMIT = 2**31 - 1


class TransformersConfig(ModelConfig):
    """Layer 4: a family of transformers, run by its own modules; the tokenizer sets the vocabulary.

    ``model_type`` or ``config`` without a ``name`` mean this form.
    """

    name: Literal["transformers"] = "transformers"
    """Whose modules are run."""
    model_type: str
    """The family, as in ``config.json``: ``qwen3``, ``gemma2``, ``gpt2``, ..."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The family's own settings, as in ``config.json``; those that are left out have the family's
    defaults, which are large. ``vocab_size`` is the tokenizer's."""

    counts_itself: ClassVar[bool] = False
    MODEL_TYPES: ClassVar[tuple[str, ...]] = ()
    READS: ClassVar[str] = "a causal language model of transformers that attends by its interface"

    @model_validator(mode="after")
    def _scales_depth_by_its_own_rule(self) -> Self:
        is_ignored = self.depth_scaling is False and self.initialization == "family"
        if self.depth_scaling or is_ignored:
            raise ValueError(
                f"depth_scaling is {str(self.depth_scaling).lower()}, which a family of "
                "transformers decides itself; remove it"
            )
        return self

    @property
    def family(self) -> FamilyKeys | None:
        """What the table says of the family; ``None`` if it is not among the tested ones."""
        return family_table().families.get(self.model_type)

    @property
    def family_name(self) -> str:
        """The word of transformers for it."""
        return self.model_type

    def completed(self) -> Self:
        """State every key, so that another release's defaults change nothing."""
        if self.family is None:
            return self
        return self.model_copy(update={"config": completed(self.family, self.config)})

    def value_of(self, name: str) -> Any:  # noqa: ANN401
        """Return a setting by its common name, or the default of a family of the table."""
        whole = self.completed().config
        if self.family is not None:
            return whole.get(self.family.own_name(name))
        synonyms = (key for key in SIZE_KEYS.get(name, ()) if key in whole)
        return whole.get(name, whole.get(next(synonyms, name)))

    def size_of(self, name: str) -> int | None:
        """Return a setting that is a size; see ``ModelConfig``."""
        value = self.value_of(name)
        return value if isinstance(value, int) and value > 0 else None

    @property
    def max_position_embeddings(self) -> int:
        """Longest sequence that the model may see; no limit where the family states none."""
        value = self.value_of("max_position_embeddings")
        return value if isinstance(value, int) and value > 0 else NO_LIMIT

    @property
    def attention_needs(self) -> AttentionNeeds:
        """What the kernel of some layer must do, by the names that families give it."""
        drops = self.value_of("attention_dropout") or self.value_of("attn_pdrop")
        key_sizes = [self.value_of(name) for name in ("qk_nope_head_dim", "qk_rope_head_dim")]
        key_size = sum(size for size in key_sizes if isinstance(size, int))
        value_size = self.value_of("v_head_dim")
        return AttentionNeeds(
            window=bool(self.value_of("sliding_window"))
            and self.value_of("use_sliding_window") is not False,
            softcap=bool(self.value_of("attn_logit_softcapping")),
            sinks=self.model_type in WITH_SINKS,
            dropout=bool(drops),
            two_sizes=isinstance(value_size, int) and value_size != key_size,
            head_dim=key_size or self.value_of("head_dim") or AttentionNeeds.head_dim,
        )

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the embedding is the output layer."""
        return self.value_of("tie_word_embeddings") is True

    @property
    def initializer_range(self) -> float:
        """Standard deviation of the starting weights."""
        value = self.value_of("initializer_range")
        return value if isinstance(value, float) else 0.02

    @property
    def num_experts(self) -> int | None:
        """Find it by the names that families give to it."""
        numbers = [value for value in map(self.value_of, EXPERT_KEYS) if isinstance(value, int)]
        if not numbers and self.family is None and self.stacks_experts:
            return None  # its default, which is not in the table
        return max(numbers, default=0)

    @property
    def stacks_experts(self) -> bool:
        """Look the family up in the table."""
        return self.model_type in family_table().stacked_experts

    @property
    def asks_for_balancing(self) -> bool:
        """Whether the family is told to compute its balancing loss."""
        return self.value_of("output_router_logits") is True

    @property
    def balancing_coefficient(self) -> float | None:
        """Return that of the config; every family of the table that has the loss states it."""
        found = next((c for c in map(self.value_of, BALANCING_KEYS) if c is not None), None)
        if isinstance(found, int | float):
            return float(found)
        return None if self.family is None else 0.0

    @property
    def adaptable_layers(self) -> tuple[str, ...]:
        """Return those of the table; nothing for a family that is not in it."""
        return () if self.family is None else self.family.linear_layers

    def with_rates_of(self, other: ModelConfig) -> Self:
        """Take over the rates that another section states for the same family."""
        if not isinstance(other, TransformersConfig) or other.model_type != self.model_type:
            return self
        rates = {key: value for key, value in other.config.items() if is_rate(key)}
        return self.model_copy(update={"config": {**self.config, **rates}})

    def untied(self) -> Self:
        """Return it with an output layer of its own beside the embedding."""
        return self.model_copy(update={"config": {**self.config, "tie_word_embeddings": False}})

    def every_size(self) -> dict[tuple[str, ...], object]:
        """Return the family's own settings; see ``ModelConfig``."""
        sizes: dict[tuple[str, ...], object] = {("model_type",): self.model_type}
        for key, value in self.config.items():
            if not is_rate(key):
                sizes["config", key] = value
        return sizes

    def stated(self) -> dict[tuple[str, ...], object]:
        """Return all that is written: it has no defaults of its own."""
        return self.every_size()

    def differences_from(self, other: ModelConfig) -> Iterator[SizeDifference]:
        """Compare key by key what both state; see ``ModelConfig``."""
        if not isinstance(other, TransformersConfig):
            yield SizeDifference(("name",), self.name, other.name)
        elif self.model_type != other.model_type:
            yield SizeDifference(("model_type",), self.model_type, other.model_type)
        else:
            for key in self.config:
                own, theirs = self.config[key], other.config.get(key, self.config[key])
                if own != theirs and not is_rate(key):
                    yield SizeDifference(("config", key), own, theirs)

    @classmethod
    def may_read(cls, fields: Mapping[str, Any]) -> bool:
        """Whether a ``config.json`` names a family of transformers, refused ones included."""
        word, table = fields.get("model_type"), family_table()
        return isinstance(word, str) and (word in table.known or word in table.refused)

    @classmethod
    def refusal(cls, fields: Mapping[str, Any]) -> ModelRefusal | None:
        """Refuse families that attend in their own way, more than text, and quantized weights."""
        model_type = str(fields.get("model_type"))
        reason = family_table().refused.get(model_type)
        if "text_config" in fields:
            reason = PARTS
        if reason is not None:
            return refused_family(model_type, reason)
        return quantized_refusal(fields)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Keep all that a ``config.json`` says of the model, with the defaults of what it omits."""
        config = {key: value for key, value in fields.items() if key not in OF_FILES}
        return cls(model_type=str(fields["model_type"]), config=config).completed()

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a ``config.json``."""
        named = {} if self.family is None else {"architectures": [self.family.architecture]}
        return {**named, "model_type": self.model_type, **self.config}


def refused_family(model_type: str, reason: str) -> ModelRefusal:
    """Say that a family of transformers cannot be trained here, and which can."""
    table = family_table()
    return ModelRefusal(
        f"model_type {model_type!r}, which has {reason}",
        "a language model that attends through the attention interface of transformers",
        f"Choose one of {', '.join(table.families)}, or another that attends so.",
    )


def completed(family: FamilyKeys, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under the family's own names, defaults included."""
    stated = {family.own_name(key): value for key, value in config.items()}
    defaults = {name: key.default for name, key in family.keys.items()}
    return defaults | _without_older_names(stated)


def _without_older_names(stated: dict[str, Any]) -> dict[str, Any]:
    """Write what transformers 4 calls ``rope_theta`` and ``rope_scaling`` as 5 does."""
    older_names = ("rope_theta", "rope_scaling")
    rest = {key: value for key, value in stated.items() if key not in older_names}
    older = {**(stated.get("rope_scaling") or {})}
    if "type" in older:
        older.setdefault("rope_type", older.pop("type"))
    if stated.get("rope_theta") is not None:
        older["rope_theta"] = stated["rope_theta"]
    if not older or stated.get("rope_parameters"):
        return rest
    return {**rest, "rope_parameters": {"rope_type": "default", **older}}


def is_rate(key: str) -> bool:
    """Whether a setting is one of training, which another stage may choose anew."""
    return key.endswith(("dropout", "pdrop", "dropout_prob")) or key in RATES


RATES = frozenset(
    {"initializer_range", "output_router_logits", "router_jitter_noise", *BALANCING_KEYS}
)
