"""``distrain generate``: continue a text, or answer a prompt, with an exported model."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distrain.config.huggingface import CONFIG_FILE, GENERATION_FILE
from distrain.data.tokenizer.layouts import fitted, layout_of
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import ExitCode, PreflightError
from distrain.models.causal_lm import CausalLM
from distrain.models.gguf.convert import pretrained_folder
from distrain.models.huggingface import open_huggingface
from distrain.models.weights.filling import build_empty
from distrain.parallel.device_map import DeviceMemory, load_weights
from distrain.runs.figures import short_count
from distrain.runs.records import read_json
from distrain.runs.sums import SUMS, find_damage

log = logging.getLogger(__name__)


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


def run_command(arguments: argparse.Namespace) -> int:
    """Write what ``generate`` returns to standard output; returns the exit code."""
    text = generate(
        arguments.model,
        arguments.prompt,
        Sampling(arguments.temperature, arguments.repetition_penalty, arguments.seed),
        max_new_tokens=arguments.max_new_tokens,
        chat=arguments.chat,
        max_memory=arguments.max_memory,
    )
    sys.stdout.write(text + "\n")
    return ExitCode.DONE


def generate(
    model: Path | str,
    prompt: str,
    sampling: Sampling = LIKELIEST,
    *,
    max_new_tokens: int = 64,
    chat: bool = False,
    max_memory: int | None = None,
) -> str:
    """Return what the model writes after ``prompt``, up to a token that ends a text.

    Args:
        model: An exported folder, or what ``model.from_pretrained`` may name.
        prompt: Control tokens in it are ordinary text.
        sampling: How the next token is chosen.
        max_new_tokens: Length at most.
        chat: The prompt is a user's turn, laid out by the model's chat template or, where it has
            none, as fine-tuning does.
        max_memory: Bytes that weights may take of each device; see ``DeviceMemory.find``.

    Raises:
        PreflightError: The folder holds no such model or no tokenizer, or a damaged file.
        ValueError: ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"found max_new_tokens {max_new_tokens}; expected at least 1")
    started = time.monotonic()
    folder = pretrained_folder(str(model), user_cache())
    check_whole(folder)
    tokenizer = Tokenizer.load(folder)
    loaded = load_model(folder, DeviceMemory.find(max_memory))
    size = short_count(sum(parameter.numel() for parameter in loaded.parameters()))
    log.info(
        "loaded %s parameters in %.1f s; writing up to %d tokens: %s",
        size,
        time.monotonic() - started,
        max_new_tokens,
        sampling,
    )
    ends = end_ids(folder, tokenizer)
    if chat:
        layout = layout_of(folder, tokenizer, has_clock=True)
        ends.add(layout.end_id)
        # A long prompt loses its beginning, but not the marks around it.
        room = max(1, loaded.model_config.max_position_embeddings - max_new_tokens)
        ids, _ = fitted(layout.question(prompt), room)
    else:
        ids = [*tokenizer.prefix_ids, *tokenizer.encode(prompt)]
    # Without any text: what follows the end of the last document is the start of the next.
    ids = ids or [tokenizer.eos_id]
    new_ids: list[int] = []
    for token in sample(loaded, ids, sampling):
        if token in ends or token >= tokenizer.vocab_size:
            break
        new_ids.append(token)
        if len(new_ids) == max_new_tokens:
            break
    return tokenizer.decode(new_ids, skip_control=True)


def user_cache() -> Path:
    """Return the folder of GGUF files that were asked outside of a run, converted."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "distrain" / "models"


def end_ids(folder: Path, tokenizer: Tokenizer) -> set[int]:
    """Return the ids that end a text: the tokenizer's, and all that the model's files name."""
    found = {tokenizer.eos_id}
    for name in (CONFIG_FILE, GENERATION_FILE):
        named = (read_json(folder / name) or {}).get("eos_token_id")
        ids = named if isinstance(named, list) else [named]
        found |= {number for number in ids if isinstance(number, int)}
    return found


def check_whole(folder: Path) -> None:
    """Compare an exported folder with the digests that it holds; another tool's holds none.

    Raises:
        PreflightError: A file was changed since the export.
    """
    damage = find_damage(folder)
    if damage is not None:
        raise PreflightError(
            str(folder),
            damage,
            f"the files that {SUMS} describes",
            "Export it again: `distrain run RECIPE --from` with the name of the export stage; "
            f"or remove {SUMS} if the change was meant.",
        )


def load_model(folder: Path, memory: DeviceMemory) -> CausalLM:
    """Read a Hugging Face folder into a model that is ready to be asked."""
    found = open_huggingface(folder)
    model = build_empty(found.config, found.vocab_size)
    load_weights(model, found.weights, memory)
    return model.eval()


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
