"""A model, opened to be asked by ``lm_eval``."""

import tempfile
from pathlib import Path
from typing import Any

from distrain.data.tokenizer.huggingface import save_huggingface
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.evaluation.generation import end_ids
from distrain.evaluation.harness.adapter import AnswerWriter, HarnessModel
from distrain.evaluation.harness.scoring import Scorer
from distrain.models.causal_lm import CausalLM
from distrain.models.huggingface import open_huggingface
from distrain.models.weights.filling import build_empty
from distrain.parallel.device_map import DeviceMemory, load_weights


def open_folder(folder: Path, *, batch_tokens: int, max_memory: int | None = None) -> HarnessModel:
    """Load a Hugging Face folder with its own tokenizer.

    Args:
        folder: Of the model.
        batch_tokens: Tokens of a forward pass.
        max_memory: See ``DeviceMemory``.
    """
    found = open_huggingface(folder)
    model = build_empty(found.config, found.vocab_size)
    load_weights(model, found.weights, DeviceMemory.find(max_memory))
    return ask_whole(model.eval(), folder, batch_tokens)


def ask_whole(model: CausalLM, folder: Path, batch_tokens: int) -> HarnessModel:
    """Let a whole model be asked, in this process alone.

    Args:
        model: With its weights.
        folder: Of its tokenizer, in Hugging Face's form.
        batch_tokens: Tokens of a forward pass.
    """
    from transformers import AutoTokenizer

    positions = model.model_config.max_position_embeddings
    scorer = Scorer(model, model.input_device, positions, batch_tokens)
    writer = AnswerWriter(model, frozenset(end_ids(folder, Tokenizer.load(folder))))
    return HarnessModel(scorer, AutoTokenizer.from_pretrained(folder), writer)


def read_tokenizer(tokenizer: Path) -> Any:  # noqa: ANN401  (of transformers)
    """Return transformers' form of a tokenizer, a file or its folder, chat template included."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        return AutoTokenizer.from_pretrained(write_tokenizer(tokenizer, Path(folder)))


def write_tokenizer(tokenizer: Path, folder: Path) -> Path:
    """Give a tokenizer the form that transformers reads; returns ``folder``."""
    save_huggingface(tokenizer, folder)
    return folder
