"""A Hugging Face folder as far as it can be judged without torch: its ``config.json``.

A GGUF file stands for the folder into which it is converted before anything else reads it.
"""

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distrain.config.models import FAMILIES, ModelConfig, family_of
from distrain.config.models.transformers.table import family_table
from distrain.config.pretrained.gguf_file import read_gguf
from distrain.config.pretrained.gguf_llama import config_fields
from distrain.config.pretrained.resolve import is_gguf
from distrain.config.pretrained.safetensors_header import DamagedHeaderError, read_header
from distrain.errors import PreflightError

Fields = Mapping[str, Any]

ADAPTER_FILE = "adapter_config.json"
"""Of a folder that peft writes: adapters, and no model."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""``org/model``: also a relative path, so it counts only where no such folder is."""
CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
NAMING_FILES = (TOKENIZER_CONFIG_FILE, "special_tokens_map.json", CONFIG_FILE)
"""Those beside ``tokenizer.json`` that may name its end-of-text token."""
END_OF_TEXT = "<|endoftext|>"
"""Our own control token, which needs no such file."""
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
PAD = "<|pad|>"
OWN_CONTROL_TOKENS = (END_OF_TEXT, USER, ASSISTANT, PAD)
"""Of a tokenizer that a run makes; in the order of their ids."""
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Of a folder whose weights are spread over several files."""


def load_config(folder: Path) -> tuple[ModelConfig, int]:
    """Read the sizes and the rows of the vocabulary only, of a folder or a GGUF file.

    Raises:
        PreflightError: As of ``load_huggingface``.
    """
    path = config_file(folder)
    fields = config_fields(read_gguf(path)) if is_gguf(path) else read_json_object(path)
    family = _family(fields, path)
    vocab_size = fields.get("vocab_size")
    try:
        model = family.from_json(fields)
        if isinstance(vocab_size, int) and vocab_size > 0:
            return model, vocab_size
        has_it = "vocab_size" in fields
        problem = f"vocab_size {vocab_size!r}" if has_it else "no vocab_size"
    except ValidationError as error:
        problem = "; ".join(
            ": ".join([*map(str, item["loc"]), item["msg"]]) for item in error.errors()
        )
    except ValueError as error:
        problem = str(error)
    raise PreflightError(
        str(path),
        problem,
        f"the sizes of a model of type {fields['model_type']}",
        "Check where the folder comes from.",
    )


def config_file(folder: Path) -> Path:
    """Return the file that holds the sizes: of a GGUF file that is itself."""
    return folder if is_gguf(folder) else folder / CONFIG_FILE


def _family(fields: Fields, path: Path) -> type[ModelConfig]:
    """Find the family of a model, and refuse what that would compute differently."""
    family = family_of(fields)
    if family is None:
        raise unknown_family(fields, path)
    refusal = family.refusal(fields)
    if refusal is not None:
        raise PreflightError(str(path), refusal.found, refusal.expected, refusal.remedy)
    return family


def unknown_family(fields: Fields, path: Path) -> PreflightError:
    """Return the error for a folder of a family that nothing here reads."""
    word = fields.get("model_type")
    own = [known for family in FAMILIES.values() for known in family.MODEL_TYPES]
    known = tuple(dict.fromkeys([*own, *family_table().known]))
    near = difflib.get_close_matches(str(word), known, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else "Choose a model of such a family."
    if "auto_map" in fields:
        remedy = f"Its code would come with the folder (auto_map), and is never run. {remedy}"
    return PreflightError(
        str(path),
        f"model_type {word!r}",
        f"one of {len(known)} families, such as {', '.join(known[:6])}",
        remedy,
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder; they need not be there.

    Raises:
        PreflightError: The list of several files is damaged.
    """
    if (folder / INDEX_FILE).exists():
        weight_map = read_json_object(folder / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise damaged_file(folder / INDEX_FILE, "no weight_map")
        return [folder / name for name in sorted({str(name) for name in weight_map.values()})]
    return [folder / WEIGHTS_FILE]


def has_chat_template(folder: Path) -> bool:
    """Whether a folder says how chats are laid out; where none does, distrain writes its own.

    Raises:
        PreflightError: The file that may say it is damaged.
    """
    if (folder / TEMPLATE_FILE).is_file():
        return True
    config = folder / TOKENIZER_CONFIG_FILE
    return config.is_file() and bool(read_json_object(config).get("chat_template"))


def weights_problem(path: Path) -> str | None:
    """Say why a file holds no weights, from its header and size; ``None`` if it may."""
    try:
        read_header(path)
    except (DamagedHeaderError, OSError) as error:
        return str(error)
    return None


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PreflightError: The file is missing, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing_file(path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged_file(path, str(error)) from error
    if not isinstance(value, dict):
        raise damaged_file(path, f"a {type(value).__name__}")
    return value


def missing_file(path: Path) -> PreflightError:
    """Return the error for a file that a model folder lacks."""
    there = sorted(entry.name for entry in path.parent.glob("*"))[:8]
    adapter = path.parent / ADAPTER_FILE
    if adapter.is_file() and path.name == CONFIG_FILE:
        base = read_json_object(adapter).get("base_model_name_or_path") or "a base that it omits"
        return PreflightError(
            str(path.parent),
            f"adapters of peft, made for {base}",
            "a whole model",
            "Merge them into that base first (merge_and_unload of peft, then save_pretrained), and "
            "give the folder of the result.",
        )
    return PreflightError(
        str(path),
        f"no such file; the folder holds {', '.join(there)}" if there else "no such folder",
        f"a Hugging Face folder with {CONFIG_FILE} and {WEIGHTS_FILE}",
        "Give the path of such a folder (weights in .bin must be saved as safetensors first).",
    )


def damaged_file(path: Path, problem: str) -> PreflightError:
    """Return the error for a file of a model folder that cannot be read."""
    return PreflightError(
        str(path), problem, "a file as transformers writes it", "Copy or download the folder again."
    )
