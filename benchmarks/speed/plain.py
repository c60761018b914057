"""The loop as people write it: a Llama in sixty lines, plain torch, nothing of ours.

``python -m benchmarks.speed.plain SIZE MODEL`` makes one step and prints the CPU time so far.
"""

import argparse
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.sizes import SIZES, Size

LEARNING_RATE = 3e-4


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of dimensions by the position's angles."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Block(nn.Module):
    """Attention and SwiGLU, each normalized before."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, self.kv = size.num_attention_heads, size.num_key_value_heads
        dim, head = size.hidden_size, size.hidden_size // size.num_attention_heads
        self.q, self.o = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, self.kv * head, bias=False)
        self.v = nn.Linear(dim, self.kv * head, bias=False)
        self.gate = nn.Linear(dim, size.intermediate_size, bias=False)
        self.up = nn.Linear(dim, size.intermediate_size, bias=False)
        self.down = nn.Linear(size.intermediate_size, dim, bias=False)
        self.norm_1, self.norm_2 = nn.RMSNorm(dim), nn.RMSNorm(dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Add both contributions to the residual stream."""
        h = self.norm_1(x)
        q = rotate(self.q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2), cos, sin)
        k = rotate(self.k(h).unflatten(-1, (self.kv, -1)).transpose(1, 2), cos, sin)
        v = self.v(h).unflatten(-1, (self.kv, -1)).transpose(1, 2)
        groups = self.heads // self.kv
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).flatten(-2))
        h = self.norm_2(x)
        output: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return output


class PlainLlama(nn.Module):
    """Embedding, blocks, norm and output layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.vocab_size, size.hidden_size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.num_hidden_layers))
        self.norm = nn.RMSNorm(size.hidden_size)
        self.head = nn.Linear(size.hidden_size, size.vocab_size, bias=False)
        half = size.hidden_size // size.num_attention_heads // 2
        angles = torch.outer(
            torch.arange(size.sequence_length), 10000.0 ** (-torch.arange(half) / half)
        )
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos())
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin())

    def forward(self, ids: Tensor) -> Tensor:
        """Compute logits."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits: Tensor = self.head(self.norm(x))
        return logits


def plain_loop(size: Size, model: nn.Module | None = None) -> Callable[[], None]:
    """Return a function that makes one step of plain torch.

    Args:
        size: Of the batch, and of the model if none is given.
        model: Takes ids and returns logits, or an object of transformers that holds them.
    """
    model = model or PlainLlama(size)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
    rows = torch.randint(4, size.vocab_size, (size.batch_size, size.sequence_length + 1))

    def step() -> None:
        logits = model(rows[:, :-1])
        logits = getattr(logits, "logits", logits)
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def qwen3(size: Size) -> nn.Module:
    """Make the module of transformers, which only then is imported."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(vocab_size=size.vocab_size, use_cache=False, **size.model)
    module: nn.Module = Qwen3ForCausalLM(config)
    return module


MODELS: dict[str, Callable[[Size], nn.Module]] = {"llama": PlainLlama, "qwen3": qwen3}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("model", choices=MODELS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[arguments.size]
    plain_loop(size, MODELS[arguments.model](size))()
    used = os.times()
    print(used.user + used.system, flush=True)
