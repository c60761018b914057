"""``distrain generate``: continue a text, or answer a prompt, with an exported model."""

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from distrain.data.chats.encoder import ChatEncoder
from distrain.data.chats.example import EncodedExample, Message
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import ExitCode, PreflightError
from distrain.evaluation.generation import LIKELIEST, Sampling, end_ids, sample
from distrain.models.causal_lm import CausalLM
from distrain.models.gguf.convert import pretrained_folder
from distrain.models.huggingface import open_huggingface
from distrain.models.weights.filling import build_empty
from distrain.parallel.device_map import DeviceMemory, load_weights
from distrain.runs.figures import short_count
from distrain.runs.sums import SUMS, find_damage

log = logging.getLogger(__name__)


def run_command(arguments: argparse.Namespace) -> int:
    """Write what ``generate`` returns to standard output; returns the exit code."""
    text = generate(
        arguments.model,
        arguments.prompt,
        Sampling(arguments.temperature, arguments.repetition_penalty, arguments.seed),
        max_new_tokens=arguments.max_new_tokens,
        chat=Chat(arguments.system, json.loads(arguments.template_arguments))
        if arguments.chat
        else None,
        max_memory=arguments.max_memory,
    )
    sys.stdout.write(text + "\n")
    return ExitCode.DONE


@dataclass(frozen=True)
class Chat:
    """That a prompt is a user's turn.

    Args:
        system: What stands before it.
        template_arguments: What the chat template is given, such as ``enable_thinking``.
    """

    system: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    def turns(self, prompt: str) -> list[Message]:
        """Return the turns; a prompt may be several, as a JSON list of messages."""
        turns: list[Message] = [{"role": "user", "content": prompt}]
        if prompt.lstrip().startswith("["):
            with contextlib.suppress(ValueError):
                found = json.loads(prompt)
                if found and all(isinstance(turn, dict) and "role" in turn for turn in found):
                    turns = found
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *turns]


def generate(
    model: Path | str,
    prompt: str,
    sampling: Sampling = LIKELIEST,
    *,
    max_new_tokens: int = 64,
    chat: Chat | None = None,
    max_memory: int | None = None,
) -> str:
    """Return what the model writes after ``prompt``, up to a token that ends a text.

    Args:
        model: An exported folder, or what ``model.from_pretrained`` may name.
        prompt: Control tokens in it are ordinary text.
        sampling: How the next token is chosen.
        max_new_tokens: Length at most.
        chat: The prompt is a user's turn, or a JSON list of messages, laid out by the model's chat
            template or, where it has none, as fine-tuning does.
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
        encoder = ChatEncoder(
            folder, tokenizer, template_arguments=chat.template_arguments, today=datetime.now()
        )
        ends |= encoder.stop_ids
        room = max(1, loaded.model_config.max_position_embeddings - max_new_tokens)
        ids = fitted_question(encoder.question(chat.turns(prompt)), room)
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


def fitted_question(question: EncodedExample, max_tokens: int) -> list[int]:
    """Return ids of turns that an answer follows: long ones lose the beginning of what they say."""
    excess = max(0, len(question.ids) - max_tokens)
    gone = np.flatnonzero(question.may_go)[:excess]
    return [int(token) for token in np.delete(question.ids, gone)[:max_tokens]]


def user_cache() -> Path:
    """Return the folder of GGUF files that were asked outside of a run, converted."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "distrain" / "models"


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
