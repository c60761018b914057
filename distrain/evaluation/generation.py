"""Text that a model writes: one token after the other, with keys and values kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distrain.config.huggingface import CONFIG_FILE, GENERATION_FILE
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.fault.page import mark
from distrain.models.causal_lm import CausalLM
from distrain.runs.records import read_json


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 takes the likeliest token each time; 1 draws from the distribution as the
            model gives it.
        repetition_penalty: Logits of tokens that are in the text already are divided by it, or
            multiplied where they are negative (arXiv 1909.05858, section 4.1); 1: not at all.
        seed: Of the draws.
    """

    temperature: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.repetition_penalty < 1:
            raise ValueError(f"found {self}; expected temperature >= 0, repetition_penalty >= 1")

    def __str__(self) -> str:
        how = f"repetition penalty {self.repetition_penalty:g}"
        if self.temperature == 0:
            return f"the likeliest token each time, {how}"
        return f"temperature {self.temperature:g}, {how}, seed {self.seed}"


LIKELIEST = Sampling()


def end_ids(folder: Path, tokenizer: Tokenizer) -> set[int]:
    """Return the ids that end a text: the tokenizer's, and all that the model's files name."""
    found = {tokenizer.eos_id}
    for name in (CONFIG_FILE, GENERATION_FILE):
        named = (read_json(folder / name) or {}).get("eos_token_id")
        ids = named if isinstance(named, list) else [named]
        found |= {number for number in ids if isinstance(number, int)}
    return found


@torch.no_grad()
def sample(model: CausalLM, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Yield one token after another, without end.

    Keys and values are kept. Only when the text is longer than the context the model was made for,
    its beginning is dropped, and what is left is computed anew for each token: its positions move.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    longest = model.model_config.max_position_embeddings
    window = new = list(ids)[-longest:]
    cache = model.new_cache()
    while True:
        mark()
        scores = model.next_scores(torch.tensor([new], device=model.input_device), cache)
        logits = scores[0].float().cpu()
        token = choose(penalized(logits, window, sampling), sampling, generator)
        yield token
        window, new = [*window, token][-longest:], [token]
        if cache.length == longest:
            new, cache = window, model.new_cache()


def penalized(logits: Tensor, window: Sequence[int], sampling: Sampling) -> Tensor:
    """Make tokens that are in the text less likely; shape (vocab_size,)."""
    if sampling.repetition_penalty == 1:
        return logits
    seen = torch.tensor(sorted(set(window)))
    found = logits[seen]
    penalty = sampling.repetition_penalty
    return logits.index_put((seen,), torch.where(found > 0, found / penalty, found * penalty))


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Take the likeliest token, or draw one."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
