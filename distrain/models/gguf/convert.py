"""A GGUF file becomes a Hugging Face folder, once; all that follows reads the folder."""

import logging
import time
from pathlib import Path

from distrain.config.huggingface import CONFIG_FILE, GENERATION_FILE
from distrain.config.pretrained.gguf_file import GgufFile, read_gguf
from distrain.config.pretrained.gguf_llama import config_fields, special_ids
from distrain.config.pretrained.resolve import is_gguf, resolve_pretrained
from distrain.models.gguf.tokenizer import write_tokenizer
from distrain.models.gguf.weights import GgufWeights
from distrain.models.weights.writer import write_weights
from distrain.runs.durable import whole_folder
from distrain.runs.lock import hold
from distrain.runs.records import write_json

log = logging.getLogger(__name__)

CONVERSION_PATIENCE_S = 3600.0
"""How long other processes wait for the one that converts."""


def pretrained_folder(written: str, cache: Path) -> Path:
    """Return the Hugging Face folder of what ``model.from_pretrained`` names.

    Args:
        written: See ``resolve_pretrained``.
        cache: Holds the folders of converted files, by digest. Any number of processes may ask at
            the same time: one of them converts, the others wait.

    Raises:
        PreflightError: The model is not there, damaged, or of another family.
    """
    path = resolve_pretrained(written)
    if not is_gguf(path):
        return path
    file = read_gguf(path)
    folder = cache / file.digest
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with hold(cache / f"{file.digest}.lock", path.name, CONVERSION_PATIENCE_S):
            if not folder.is_dir():
                convert(file, folder)
    return folder


def convert(file: GgufFile, folder: Path) -> None:
    """Write the folder of a model and its tokenizer; it appears when it is complete.

    Raises:
        PreflightError: The model is of another family, or holds values that are no numbers.
    """
    started = time.monotonic()
    fields = config_fields(file)
    weights = GgufWeights(file, fields)
    dtype = str(weights.forms["model.embed_tokens.weight"].dtype).removeprefix("torch.")
    with whole_folder(folder) as partial:
        write_text_files(file, partial)
        write_weights(partial, weights)
        write_json(partial / CONFIG_FILE, {**fields, "dtype": dtype, "torch_dtype": dtype})
    log.info("%s is now %s, in %.1f s", file.path.name, folder, time.monotonic() - started)


def write_text_files(file: GgufFile, folder: Path) -> None:
    """Write what turns chats into ids: the tokenizer, its template, and what ends a text."""
    write_tokenizer(file, folder)
    write_json(folder / GENERATION_FILE, special_ids(file))
