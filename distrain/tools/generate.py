"""``distrain generate``: continue a text, or answer a prompt, with an exported model."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from distrain.data.tokenizer.prompts import prompt_ids
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import ExitCode, PreflightError
from distrain.models import build_model
from distrain.models.causal_lm import CausalLM
from distrain.models.huggingface import load_huggingface
from distrain.parallel.device import resolve_device
from distrain.runs.sums import SUMS, find_damage


def run_command(arguments: argparse.Namespace) -> int:
    """Write what ``generate`` returns to standard output; returns the exit code."""
    text = generate(
        arguments.folder,
        arguments.prompt,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
        chat=arguments.chat,
    )
    sys.stdout.write(text + "\n")
    return ExitCode.DONE


def generate(
    folder: Path,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
) -> str:
    """Return what the model writes after ``prompt``, up to its end-of-text token.

    Args:
        folder: An exported model, or any Hugging Face folder of the Llama architecture.
        prompt: Control tokens in it are ordinary text.
        max_new_tokens: Length at most.
        temperature: 0 takes the likeliest token each time; 1 samples from the distribution as
            the model gives it.
        seed: Of the sampling.
        chat: Lay the prompt out as fine-tuning did.

    Raises:
        PreflightError: The folder holds no such model or no tokenizer, or a damaged file.
        ValueError: ``max_new_tokens`` is below 1 or ``temperature`` below 0.
    """
    if max_new_tokens < 1 or temperature < 0:
        raise ValueError(
            f"found max_new_tokens {max_new_tokens}, temperature {temperature}; "
            "expected at least 1 and at least 0"
        )
    check_whole(folder)
    tokenizer = Tokenizer.load(folder)
    model = load_model(folder).to(resolve_device("auto"))
    text = tokenizer.encode(prompt)
    if chat:
        # A long prompt loses its beginning, but not the marks around it.
        room = max(1, model.model_config.max_position_embeddings - max_new_tokens)
        ids = prompt_ids(tokenizer, text, max_tokens=room)
    else:
        ids = [*tokenizer.prefix_ids, *text]
    # Without any text: what follows the end of the last document is the start of the next.
    ids = ids or [tokenizer.eos_id]
    generator = torch.Generator().manual_seed(seed)
    new_ids: list[int] = []
    for token in sample(model, ids, temperature, generator):
        if token == tokenizer.eos_id or token >= tokenizer.vocab_size:
            break
        new_ids.append(token)
        if len(new_ids) == max_new_tokens:
            break
    return tokenizer.decode(new_ids, skip_control=True)


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


def load_model(folder: Path) -> CausalLM:
    """Read a Hugging Face folder into a model that is ready to be asked, on the CPU."""
    config, vocab_size, state = load_huggingface(folder)
    with torch.device("meta"):
        model = build_model(config, vocab_size)
    # The state has every parameter (it was checked) but a tied output layer.
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def sample(
    model: CausalLM, ids: Sequence[int], temperature: float, generator: torch.Generator
) -> Iterator[int]:
    """Yield one token after another, without end.

    The whole text is computed anew for each: no keys and values are kept. When it is longer than
    the context the model was made for, its beginning is dropped.
    """
    device = next(model.parameters()).device
    context = list(ids)
    while True:
        window = context[-model.model_config.max_position_embeddings :]
        logits = model(torch.tensor([window], device=device))[0, -1].float().cpu()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            probabilities = torch.softmax(logits / temperature, dim=-1)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
        context.append(token)
        yield token
