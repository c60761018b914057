"""The Llama family (arXiv 2302.13971): a recipe's section, and ``LlamaConfig`` of transformers."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distrain.config.models.family import ModelConfig, Positive


class LlamaConfig(ModelConfig):
    """Layer 4: a decoder of the Llama family (the vocabulary comes from the tokenizer)."""

    name: Literal["llama"] = "llama"
    """Architecture."""
    hidden_size: Positive = 192
    """Width of the residual stream; a multiple of twice the heads."""
    num_hidden_layers: Positive = 4
    """Transformer blocks."""
    num_attention_heads: Positive = 4
    """Heads of queries."""
    num_key_value_heads: Positive | None = None
    """Grouped-query attention; default: as many as heads."""
    intermediate_size: Positive = 512
    """Width within the feed-forward layers."""
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    """Base of the rotary embedding's wave lengths."""
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Added to the mean square before its root."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("llama",)
    READS: ClassVar[str] = "a model of the Llama architecture, without biases or scaled positions"
    JSON_FIELDS: ClassVar[tuple[str, ...]] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "initializer_range",
    )
    NUM_REQUIRED: ClassVar[int] = 3

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        heads = self.num_attention_heads
        if self.hidden_size % heads:
            unit = 2 * heads  # an even number for each head
            below = max(self.hidden_size - self.hidden_size % unit, unit)
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {heads}; "
                f"set hidden_size to {below} or {below + unit}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} / num_attention_heads {self.num_attention_heads} "
                f"= {self.head_dim} is odd; rotary embedding turns pairs of dimensions"
            )
        if heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {heads} is not a multiple of "
                f"num_key_value_heads {self.num_kv_heads}; set the latter to one of "
                + ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            )
        return self

    @property
    def head_dim(self) -> int:
        """Dimensions of a head: the heads share the width of the residual stream."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def adaptable_layers(self) -> tuple[str, ...]:
        """Return those of attention and of the feed-forward layer."""
        return ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")

    def num_parameters(self, vocab_size: int) -> int:
        """Add the norms, and the embedding where it is not the output layer."""
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        embedding = 0 if self.tie_word_embeddings else vocab_size * self.hidden_size
        return self._num_matmul_parameters(vocab_size) + norms + embedding

    def flops_per_token(self, vocab_size: int, sequence_length: int) -> float:
        """See ``ModelConfig``."""
        attention = 12 * self.num_hidden_layers * self.hidden_size * sequence_length
        return float(6 * self._num_matmul_parameters(vocab_size) + attention)

    def _num_matmul_parameters(self, vocab_size: int) -> int:
        kv_size = self.head_dim * self.num_kv_heads
        # Queries and output are square; keys and values may have fewer heads.
        attention = 2 * self.hidden_size * (self.hidden_size + kv_size)
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        head = vocab_size * self.hidden_size
        return self.num_hidden_layers * (attention + feed_forward) + head

    @classmethod
    def differences(cls, fields: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
        """Refuse another activation, biases, scaled positions and a head size of its own."""
        rope = _rope(fields, "rope_parameters") or _rope(fields, "rope_scaling")
        size, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
        head_dim = fields.get("head_dim")
        if isinstance(size, int) and isinstance(heads, int) and heads > 0:
            head_dim = size // heads  # sizes that are no numbers are refused later, by the schema
        return {
            "hidden_act": (fields.get("hidden_act", "silu"), "silu"),
            "attention_bias": (fields.get("attention_bias", False), False),
            "mlp_bias": (fields.get("mlp_bias", False), False),
            "rope type": (rope.get("rope_type", rope.get("type", "default")), "default"),
            "head_dim": (fields.get("head_dim") or head_dim, head_dim),
        }

    @classmethod
    def more_from_json(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read the base of the wave lengths."""
        rope = _rope(fields, "rope_parameters")  # transformers 5; a plain field before
        theta = rope.get("rope_theta") or fields.get("rope_theta")
        return {} if theta is None else {"rope_theta": theta}

    def to_json(self) -> dict[str, Any]:
        """Return what ``LlamaForCausalLM`` needs."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **self.same_fields(),
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "rope_theta": self.rope_theta,  # transformers 4
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
        }


def _rope(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}
