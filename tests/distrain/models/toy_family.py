"""A second model family, for tests only: what one more file and one line in each list amount to.

Biases, LayerNorm, a learned table of positions, a head size that the width does not decide, an
output layer with another name, and other names in Hugging Face folders.

Shape legend: as of ``distrain.models.llama``.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from distrain.config.models import FAMILIES, DecoderConfig, ModelConfig
from distrain.models import MODELS
from distrain.models.attention import AttentionPlan, DocumentLayout, attend, plan_attention
from distrain.models.causal_lm import CausalLM
from distrain.models.initial_values import Constant, Normal, ValueRule
from distrain.models.output_layer import OutputLayer


class ToyConfig(DecoderConfig):
    """Layer 4: a decoder in the manner of GPT-2."""

    name: Literal["toy"] = "toy"
    """Architecture."""
    width: int = 24
    """Of the residual stream."""
    depth: int = 2
    """Blocks."""
    heads: int = 3
    """Of queries, keys and values."""
    head_size: int = 10
    """Not width / heads."""
    inner: int = 40
    """Width within the feed-forward layers."""

    MODEL_TYPES: ClassVar[tuple[str, ...]] = ("toy", "toy2")
    READS: ClassVar[str] = "a toy with GELU"
    JSON_FIELDS: ClassVar[tuple[str, ...]] = (
        *("width", "depth", "heads", "head_size", "inner"),
        *("tie_word_embeddings", "initializer_range"),
    )
    NUM_REQUIRED: ClassVar[int] = 2

    @property
    def adaptable_layers(self) -> tuple[str, ...]:
        return ("fc", "out", "proj", "qkv")

    def num_parameters(self, vocab_size: int) -> int:
        tables = (self.max_position_embeddings + vocab_size) * self.width
        biases = self.depth * (3 * self.all_heads + self.width + self.inner + self.width)
        norms = 2 * self.width * (2 * self.depth + 1)
        head = 0 if self.tie_word_embeddings else vocab_size * self.width
        return tables + biases + norms + head + self._num_block_weights

    def flops_per_token(self, vocab_size: int, sequence_length: int) -> float:
        attention = 12 * self.depth * self.all_heads * sequence_length
        return float(6 * (self._num_block_weights + vocab_size * self.width) + attention)

    @property
    def all_heads(self) -> int:
        return self.heads * self.head_size

    @property
    def _num_block_weights(self) -> int:
        return self.depth * (4 * self.width * self.all_heads + 2 * self.width * self.inner)

    @classmethod
    def differences(cls, fields: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
        return {"act": (fields.get("act", "gelu"), "gelu")}

    @classmethod
    def more_from_json(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"max_position_embeddings": fields["n_positions"]} if "n_positions" in fields else {}

    def to_json(self) -> dict[str, Any]:
        n_positions = self.max_position_embeddings
        return {
            "model_type": "toy",
            **self.same_fields(),
            "n_positions": n_positions,
            "act": "gelu",
        }


class ToyBlock(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.num_heads = config.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.all_heads)
        self.out = nn.Linear(config.all_heads, config.width)
        self.fc, self.proj = (
            nn.Linear(config.width, config.inner),
            nn.Linear(config.inner, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, plan: AttentionPlan) -> Tensor:
        parts = self.qkv(self.ln_1(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = self.out(attend(q, k, v, plan).transpose(1, 2).flatten(-2))
        x = x + self.dropout(attended)
        hidden = nn.functional.gelu(self.fc(self.ln_2(x)))
        output: Tensor = x + self.dropout(self.proj(hidden))
        return output


class Toy(CausalLM):
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (ToyBlock,)
    OUTPUT_LAYER: ClassVar[str] = "head"

    def __init__(self, model_config: ModelConfig, vocab_size: int) -> None:
        assert isinstance(model_config, ToyConfig)
        super().__init__(model_config, vocab_size)
        self.std = model_config.initializer_range
        self.wte = nn.Embedding(vocab_size, model_config.width)
        self.wpe = nn.Embedding(model_config.max_position_embeddings, model_config.width)
        self.blocks = nn.ModuleList(ToyBlock(model_config) for _ in range(model_config.depth))
        self.ln_f = nn.LayerNorm(model_config.width)
        self.head = OutputLayer(model_config.width, vocab_size)
        self.tie_weights()

    def hidden_states(self, input_ids: Tensor, documents: DocumentLayout) -> Tensor:
        x = self.wte(input_ids) + self.wpe(documents.position_ids.long())
        plan = plan_attention(documents)
        for block in self.blocks:
            x = block(x, plan)
        hidden: Tensor = self.ln_f(x)
        return hidden

    def tie_weights(self) -> None:
        if self.model_config.tie_word_embeddings:
            self.head.weight = self.wte.weight

    def family_rule(self, name: str, shape: torch.Size) -> ValueRule:
        if name.endswith(".bias"):
            return Constant(0.0)
        if len(shape) < 2:
            return Constant(1.0)
        return Normal(self.std / 2 if name == "wpe.weight" else self.std)

    @classmethod
    def huggingface_name(cls, name: str) -> str:
        if name.startswith("head."):
            return f"lm_{name}"
        return "transformer." + re.sub(r"^blocks\.(\d+)\.(qkv|out)\.", r"h.\1.attn.\2.", name)


def register():
    """Add the two lines that a family of ours has in the lists."""
    FAMILIES["toy"] = ToyConfig
    MODELS["toy"] = Toy


def unregister():
    """Take them out again, so that other tests see the families that there are."""
    FAMILIES.pop("toy", None)
    MODELS.pop("toy", None)
