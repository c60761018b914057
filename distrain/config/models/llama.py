"""The Llama family (arXiv 2302.13971): a recipe's section, and ``LlamaConfig`` of transformers.

Mistral without a window computes the same, under another ``model_type``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distrain.config.attention import AttentionNeeds
from distrain.config.models.family import DecoderConfig, Dropout, Positive
from distrain.config.section import Section

LEFT_OUT: Mapping[str, Mapping[str, Any]] = {
    # Of LlamaConfig and MistralConfig in transformers 5: what a config.json without the key means.
    "llama": {"rms_norm_eps": 1e-6},
    "mistral": {
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
}


class RopeScaling(Section):
    """Llama 3.1's slower turning of low frequencies, for texts longer than those trained on."""

    rope_type: Literal["llama3"] = "llama3"
    """Of the scalings that there are, this one is known."""
    factor: Annotated[float, Field(ge=1)] = 8.0
    """Low frequencies are divided by it."""
    low_freq_factor: Annotated[float, Field(gt=0)] = 1.0
    """A wave longer than ``original_max_position_embeddings`` / this is slowed by ``factor``."""
    high_freq_factor: Annotated[float, Field(gt=0)] = 4.0
    """A wave shorter than ``original_max_position_embeddings`` / this keeps its length."""
    original_max_position_embeddings: Positive = 8192
    """Longest sequence before the scaling."""

    @model_validator(mode="after")
    def _bounds_are_apart(self) -> Self:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor {self.low_freq_factor} is not below high_freq_factor "
                f"{self.high_freq_factor}; Llama 3.1 has 1.0 and 4.0"
            )
        return self


class LlamaConfig(DecoderConfig):
    """Layer 4: a decoder of the Llama family (the vocabulary comes from the tokenizer)."""

    name: Literal["llama"] = "llama"
    """Architecture."""
    hidden_size: Positive = 192
    """Width of the residual stream; without ``head_dim`` a multiple of twice the heads."""
    num_hidden_layers: Positive = 4
    """Transformer blocks."""
    num_attention_heads: Positive = 4
    """Heads of queries."""
    num_key_value_heads: Positive | None = None
    """Grouped-query attention; default: as many as heads."""
    head_dim: Positive | None = None
    """Dimensions of a head, an even number; default: ``hidden_size`` / ``num_attention_heads``."""
    intermediate_size: Positive = 512
    """Width within the feed-forward layers."""
    attention_dropout: Dropout = 0.0
    """On the attention weights, in training only."""
    embedding_dropout: Dropout = 0.0
    """On the embedded tokens, in training only."""
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    """Base of the rotary embedding's wave lengths."""
    rope_scaling: RopeScaling | None = None
    """Scaled rotary positions, as of Llama 3.1 and 3.2; default: none."""
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Added to the mean square before its root."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    READS: ClassVar[str] = (
        "a model of the Llama architecture: without biases or windows, with rotary positions as "
        "they are or scaled as of Llama 3.1"
    )
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
        if self.head_dim is None and self.hidden_size % heads:
            unit = 2 * heads  # an even number for each head
            below = max(self.hidden_size - self.hidden_size % unit, unit)
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {heads}; "
                f"set hidden_size to {below} or {below + unit}"
            )
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} is odd; rotary embedding turns pairs of dimensions"
            )
        if self.head_size % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} / num_attention_heads {self.num_attention_heads} "
                f"= {self.head_size} is odd; rotary embedding turns pairs of dimensions"
            )
        if heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {heads} is not a multiple of "
                f"num_key_value_heads {self.num_kv_heads}; set the latter to one of "
                + ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            )
        return self

    @property
    def attention_needs(self) -> AttentionNeeds:
        """What the kernel must be able to do while training."""
        return AttentionNeeds(dropout=self.attention_dropout > 0, head_dim=self.head_size)

    @property
    def head_size(self) -> int:
        """Dimensions of a head: unless stated, the heads share the residual stream's width."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query_size(self) -> int:
        """Dimensions of all heads of queries together."""
        return self.num_attention_heads * self.head_size

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def adaptable_layers(self) -> tuple[str, ...]:
        """Return those of attention and of the feed-forward layer."""
        return ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")

    def parameter_names(self) -> list[str]:
        """Return the names of all parameters, in order."""
        attention = [f"self_attn.{part}_proj" for part in "qkvo"]
        feed_forward = [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
        block = [*attention, *feed_forward, "input_layernorm", "post_attention_layernorm"]
        blocks = [
            f"layers.{number}.{part}" for number in range(self.num_hidden_layers) for part in block
        ]
        names = [f"model.{part}.weight" for part in ("embed_tokens", *blocks, "norm")]
        return names if self.tie_word_embeddings else [*names, "lm_head.weight"]

    def tensor_shapes(self, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """See ``ModelConfig``."""
        size, inner = self.hidden_size, self.intermediate_size
        keys = self.num_kv_heads * self.head_size
        block = {
            "input_layernorm": (size,),
            "post_attention_layernorm": (size,),
            "self_attn.q_proj": (self.query_size, size),
            "self_attn.k_proj": (keys, size),
            "self_attn.v_proj": (keys, size),
            "self_attn.o_proj": (size, self.query_size),
            "mlp.gate_proj": (inner, size),
            "mlp.up_proj": (inner, size),
            "mlp.down_proj": (size, inner),
        }
        shapes: dict[str, tuple[int, ...]] = {
            f"model.layers.{number}.{name}.weight": shape
            for number in range(self.num_hidden_layers)
            for name, shape in block.items()
        }
        shapes["model.embed_tokens.weight"] = (vocab_size, size)
        shapes["model.norm.weight"] = (size,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (vocab_size, size)
        return shapes

    def num_parameters(self, vocab_size: int) -> int:
        """Add the norms, and the embedding where it is not the output layer."""
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        embedding = 0 if self.tie_word_embeddings else vocab_size * self.hidden_size
        return self._num_matmul_parameters(vocab_size) + norms + embedding

    def flops_per_token(self, vocab_size: int, sequence_length: int) -> float:
        """See ``ModelConfig``."""
        attention = 12 * self.num_hidden_layers * self.query_size * sequence_length
        return float(6 * self._num_matmul_parameters(vocab_size) + attention)

    def _num_matmul_parameters(self, vocab_size: int) -> int:
        kv_size = self.head_size * self.num_kv_heads
        # As many weights for queries as for the output; keys and values may have fewer heads.
        attention = 2 * self.hidden_size * (self.query_size + kv_size)
        feed_forward = 3 * self.hidden_size * self.intermediate_size
        head = vocab_size * self.hidden_size
        return self.num_hidden_layers * (attention + feed_forward) + head

    @classmethod
    def differences(cls, fields: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
        """Refuse another activation, biases, windows and other scalings of positions."""
        rope_type = _rope_type(fields)
        is_known = rope_type in ("default", "llama3")
        window = {**LEFT_OUT["mistral"], **fields}["sliding_window"]
        return {
            "hidden_act": (fields.get("hidden_act", "silu"), "silu"),
            "attention_bias": (fields.get("attention_bias", False), False),
            "mlp_bias": (fields.get("mlp_bias", False), False),
            "rope type": (rope_type, rope_type if is_known else "default"),
            "partial_rotary_factor": (_rope(fields).get("partial_rotary_factor", 1.0), 1.0),
            # A llama has no windows, whatever its file says.
            "sliding_window": (window if fields.get("model_type") == "mistral" else None, None),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read the sizes, and what transformers takes for those that are left out."""
        return super().from_json({**LEFT_OUT.get(str(fields.get("model_type")), {}), **fields})

    @classmethod
    def more_from_json(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read the wave lengths, and a head size that does not follow from the others."""
        more: dict[str, Any] = {}
        rope = _rope(fields)
        theta = rope.get("rope_theta") or fields.get("rope_theta")  # a plain field before 5
        if theta is not None:
            more["rope_theta"] = theta
        if _rope_type(fields) == "llama3":
            names = RopeScaling.model_fields.keys() - {"rope_type"}
            # Without it transformers takes how far the model goes.
            length = fields.get("max_position_embeddings")
            scaling = {"original_max_position_embeddings": length} | dict(rope)
            missing = sorted(names - scaling.keys())
            if missing:
                raise ValueError(f"no {', '.join(missing)} beside rope_type llama3")
            more["rope_scaling"] = {name: scaling[name] for name in names}
        head_dim = fields.get("head_dim")
        if head_dim and head_dim != _even_share(fields):
            more["head_dim"] = head_dim
        return more

    def to_json(self) -> dict[str, Any]:
        """Return what ``LlamaForCausalLM`` needs."""
        scaling = self.rope_scaling.model_dump() if self.rope_scaling is not None else None
        older = {} if scaling is None else {"rope_scaling": scaling}
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **self.same_fields(),
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": self.attention_dropout,
            "rope_theta": self.rope_theta,  # transformers 4, as is rope_scaling
            **older,
            "rope_parameters": {
                **(scaling or {"rope_type": "default"}),
                "rope_theta": self.rope_theta,
            },
        }


def _rope(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is said of rotary positions: by transformers 5, or before it."""
    values = (fields.get(name) for name in ("rope_parameters", "rope_scaling"))
    return next((value for value in values if isinstance(value, dict) and value), {})


def _rope_type(fields: Mapping[str, Any]) -> object:
    rope = _rope(fields)
    return rope.get("rope_type", rope.get("type", "default"))


def _even_share(fields: Mapping[str, Any]) -> int | None:
    size, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    if not (isinstance(size, int) and isinstance(heads, int) and heads > 0):
        return None  # the schema refuses them
    return None if size % heads else size // heads
