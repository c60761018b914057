"""The tokenizer in Hugging Face's form, for ``transformers.AutoTokenizer`` without remote code."""

import shutil
from pathlib import Path
from typing import Any

from distrain.config.huggingface import TEMPLATE_FILE, TOKENIZER_FILE
from distrain.data.tokenizer.layouts import chat_template
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.runs.durable import write_text
from distrain.runs.records import read_json, write_json

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
OLD_TEMPLATE_FILE = "chat_template.json"
MORE_TEMPLATES = "additional_chat_templates"
FILES = (
    *(TOKENIZER_FILE, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP),
    *("added_tokens.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""What may describe a tokenizer in a model's folder, beside its chat templates."""


def save_huggingface(
    tokenizer_json: Path,
    folder: Path,
    *,
    model_max_length: int | None = None,
    verbatim: bool = False,
) -> None:
    """Write ``tokenizer.json`` and the files that describe it into ``folder``.

    What a user's own files say is kept, the chat template too: fine-tuning lays out pairs by it.
    Where there is none, it is ours. In an exported folder, control tokens in text are control
    tokens, as ``transformers`` has it and chat templates need it.

    Args:
        tokenizer_json: The file, or the folder that holds it.
        folder: Of the exported model.
        model_max_length: Replaces a user's own limit, unless ``verbatim``.
        verbatim: It is that of a user's model: every file that is there stays as it is, byte for
            byte.
    """
    source, tokenizer = _source(tokenizer_json)
    folder.mkdir(parents=True, exist_ok=True)
    if verbatim and (source.parent / TOKENIZER_CONFIG).exists():
        copy_files(source.parent, folder)
        if not has_template(folder):
            write_text(folder / TEMPLATE_FILE, chat_template(tokenizer))
        return
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        # Later entries win: the user's own over our defaults, what this run relies on over both.
        **_read(source.parent / TOKENIZER_CONFIG),
        **_named_tokens(tokenizer),
    }
    # A user's own limit stays, unless the caller knows the model's.
    if model_max_length is not None:
        config["model_max_length"] = model_max_length
    if not has_template(source.parent):
        config["chat_template"] = chat_template(tokenizer)
    _copy_templates(source.parent, folder)
    special = _read(source.parent / SPECIAL_TOKENS_MAP) | _named_tokens(tokenizer)
    write_json(folder / TOKENIZER_CONFIG, config)
    write_json(folder / SPECIAL_TOKENS_MAP, special)
    write_text(folder / TOKENIZER_FILE, source.read_text(encoding="utf-8"))


def copy_files(source: Path, folder: Path) -> None:
    """Copy whatever describes the tokenizer of a model's folder, byte for byte."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    _copy_templates(source, folder)


def _copy_templates(source: Path, folder: Path) -> None:
    """Copy chat templates that are files of their own; they win over the configuration's."""
    for name in (TEMPLATE_FILE, OLD_TEMPLATE_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if (source / MORE_TEMPLATES).is_dir():
        shutil.copytree(source / MORE_TEMPLATES, folder / MORE_TEMPLATES, dirs_exist_ok=True)


def has_template(folder: Path) -> bool:
    """Return whether a model's folder says how a chat is laid out.

    ``chat_template.json`` does not: it is a processor's, and no tokenizer reads it.
    """
    stated = _read(folder / TOKENIZER_CONFIG).get("chat_template")
    return (folder / TEMPLATE_FILE).is_file() or bool(stated)


def copy_tokenizer(tokenizer_json: Path, folder: Path) -> None:
    """Copy a ready tokenizer so that ``Tokenizer.load`` finds the same ids beside the copy.

    Its chat template comes along: a model that is trained with the tokenizer is fine-tuned by it.

    Raises:
        DataError: It is missing, or has no end-of-text token.
    """
    source, tokenizer = _source(tokenizer_json)
    # The tokens that were found are named in it, even where another file beside the original did.
    named = _named_tokens(tokenizer)
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
        if name == TOKENIZER_CONFIG or (source.parent / name).is_file():
            write_json(folder / name, _read(source.parent / name) | named)
    _copy_templates(source.parent, folder)
    write_text(folder / TOKENIZER_FILE, source.read_text(encoding="utf-8"))


def _source(path: Path) -> tuple[Path, Tokenizer]:
    file = path / TOKENIZER_FILE if path.is_dir() else path
    return file, Tokenizer.load(file)


def _named_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    return {
        "eos_token": tokenizer.name_of(tokenizer.eos_id),
        "pad_token": tokenizer.name_of(tokenizer.pad_id),
    }


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) or {}
