"""The tokenizer that a GGUF file holds, as ``tokenizer.json`` and ``tokenizer_config.json``."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from distrain.config.huggingface import TOKENIZER_FILE
from distrain.config.pretrained.gguf_file import GgufFile
from distrain.config.pretrained.gguf_llama import BY_DIGIT
from distrain.runs.durable import write_text
from distrain.runs.records import write_json

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


def write_tokenizer(file: GgufFile, folder: Path) -> None:
    """Write both files; ``transformers`` reads vocabulary, merges and control tokens."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(str(file.path.parent), gguf_file=file.path.name)
    raw = found.backend_tokenizer
    if file.metadata.get("tokenizer.ggml.pre") in BY_DIGIT:
        _cut_by_digit(raw)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": file.metadata["llama.context_length"],
        **{name: value for name in SPECIAL if (value := getattr(found, name)) is not None},
    }
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    write_text(folder / TOKENIZER_FILE, json.dumps(json.loads(raw.to_str()), ensure_ascii=False))
    write_json(folder / "tokenizer_config.json", config)


def _cut_by_digit(raw: Tokenizer) -> None:
    """Make each digit a word; transformers 5.24 takes GPT-2's words for these models too.

    It matters where a number follows spaces: their last one belongs to them, not to the number.
    """
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
