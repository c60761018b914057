"""Layers 4 and 5: the decoder of the Llama family (arXiv 2302.13971, section 2.2).

Module names are those of Hugging Face's ``LlamaForCausalLM``, so that exported weights and PEFT
adapters need no renaming. The code knows one device; engines lay it over ranks.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence (query positions), S = the
same as keys, D = hidden size, N = heads, K = key and value heads, H = size of a head, F = size
of the feed-forward layer, V = vocabulary.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrain.config.models import LlamaConfig, ModelConfig
from distrain.models.attention import (
    PLAIN,
    AttentionPlan,
    AttentionRule,
    DocumentLayout,
    attend,
    plan_attention,
    undivided,
)
from distrain.models.causal_lm import CausalLM
from distrain.models.initial_values import Constant, Normal, ValueRule
from distrain.models.key_value_cache import KeyValueCache
from distrain.models.output_layer import OutputLayer
from distrain.models.rope import rope_tables, rotate


class LlamaAttention(nn.Module):
    """Causal self-attention with grouped key and value heads (arXiv 2305.13245)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_kv_heads
        self.training_rule = AttentionRule(dropout=config.attention_dropout)
        kv_size = self.num_kv_heads * config.head_size
        self.q_proj = nn.Linear(config.hidden_size, config.query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(config.query_size, config.hidden_size, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        cos_BTH: Tensor,
        sin_BTH: Tensor,
        plan: AttentionPlan,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Mix values over the positions that ``plan`` allows, those in ``cache`` too."""
        # SDPA wants heads before positions.
        q_BNTH = self.q_proj(x_BTD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k_BKTH = self.k_proj(x_BTD).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        v_BKTH = self.v_proj(x_BTD).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        # Before the groups are repeated: each key head is rotated once.
        q_BNTH = rotate(q_BNTH, cos_BTH, sin_BTH)
        k_BKTH = rotate(k_BKTH, cos_BTH, sin_BTH)
        if cache is not None:
            k_BKTH, v_BKTH = cache.add_keys(self, k_BKTH, v_BKTH)
        rule = self.training_rule if self.training else PLAIN
        mixed_BNTH = attend(q_BNTH, k_BKTH, v_BKTH, plan, rule)
        output: Tensor = self.o_proj(mixed_BNTH.transpose(1, 2).flatten(-2))
        return output


class LlamaMLP(nn.Module):
    """SwiGLU feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each position by itself."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return output


class LlamaBlock(nn.Module):
    """Attention, then feed-forward, each normalized before and added to the residual stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BTD: Tensor,
        cos_BTH: Tensor,
        sin_BTH: Tensor,
        plan: AttentionPlan,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Add this block's two contributions to the residual stream."""
        attended_BTD = self.self_attn(self.input_layernorm(x_BTD), cos_BTH, sin_BTH, plan, cache)
        x_BTD = x_BTD + self.dropout(attended_BTD)
        output: Tensor = x_BTD + self.dropout(self.mlp(self.post_attention_layernorm(x_BTD)))
        return output


class LlamaDecoder(nn.Module):
    """Embedding, blocks and the final norm (``model`` in Hugging Face's names)."""

    def __init__(self, config: LlamaConfig, vocab_size: int) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.rope_theta = config.rope_theta
        self.rope_scaling = config.rope_scaling
        self.embed_tokens = nn.Embedding(vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(LlamaBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        input_ids_BT: Tensor,
        documents: DocumentLayout,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Compute the last hidden state, shape (B, T, D)."""
        x_BTD = self.dropout(self.embed_tokens(input_ids_BT))
        # Computed in each forward pass (once, for all blocks) and never kept: a buffer would hold
        # garbage after ``to_empty``, and be rounded when the model is cast to bf16.
        cos_BTH, sin_BTH = rope_tables(
            documents.position_ids,
            self.head_size,
            theta=self.rope_theta,
            scaling=self.rope_scaling,
            dtype=x_BTD.dtype,
        )
        plan = plan_attention(documents)
        for block in self.layers:
            x_BTD = block(x_BTD, cos_BTH, sin_BTH, plan, cache)
        output: Tensor = self.norm(x_BTD)
        return output


class Llama(CausalLM):
    """The decoder with its output layer; see ``CausalLM`` for what each method promises."""

    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (LlamaBlock,)
    # Old conversions stored the rotary frequencies too.
    NOT_LEARNED: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)
    RESIDUAL_PROJECTIONS: ClassVar[tuple[str, ...]] = ("o_proj.weight", "down_proj.weight")
    FAMILY_SCALES_DEPTH: ClassVar[bool] = True

    def __init__(self, model_config: ModelConfig, vocab_size: int) -> None:
        assert isinstance(model_config, LlamaConfig), f"{model_config.name} is another family"
        super().__init__(model_config, vocab_size)
        self.model_config: LlamaConfig = model_config
        self.model = LlamaDecoder(model_config, vocab_size)
        self.lm_head = OutputLayer(model_config.hidden_size, vocab_size)
        self.tie_weights()

    def hidden_states(self, input_ids: Tensor, documents: DocumentLayout) -> Tensor:
        """Run the decoder, shape (B, T, D); the arguments are described in ``CausalLM``."""
        hidden_BTD: Tensor = self.model(input_ids, documents)
        return hidden_BTD

    def next_hidden_states(self, input_ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Compute the new positions only; see ``CausalLM``."""
        documents = undivided(input_ids, first=cache.length)
        cache.add_ids(input_ids)
        hidden_BTD: Tensor = self.model(input_ids, documents, cache)
        return hidden_BTD

    def tie_weights(self) -> None:
        """Let ``lm_head`` and ``embed_tokens`` be one parameter, if the recipe ties them."""
        if self.model_config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def family_rule(self, name: str, shape: torch.Size) -> ValueRule:
        """Draw matrices from a normal distribution, scaled by depth; norm weights are 1."""
        if len(shape) < 2:
            return Constant(1.0)
        std = self.model_config.initializer_range
        if name.endswith(self.RESIDUAL_PROJECTIONS):
            std /= math.sqrt(2 * self.model_config.num_hidden_layers)
        return Normal(std)
