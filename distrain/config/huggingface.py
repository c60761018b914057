"""A Hugging Face folder as far as it can be judged without torch: its ``config.json``."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distrain.config.training import ModelConfig
from distrain.errors import PreflightError

Fields = Mapping[str, Any]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Of a folder whose weights are spread over several files."""
SIZE_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
)
"""Fields with the same name and meaning in ``ModelConfig`` and ``LlamaConfig``."""


def load_config(folder: Path) -> tuple[ModelConfig, int]:
    """Read the sizes and the rows of the vocabulary only.

    Raises:
        PreflightError: As of ``load_huggingface``.
    """
    path = folder / CONFIG_FILE
    fields = read_json_object(path)
    _check_supported(fields, path)
    values = {name: fields[name] for name in SIZE_FIELDS if fields.get(name) is not None}
    rope = _rope(fields, "rope_parameters")  # transformers 5; a plain field before
    theta = rope.get("rope_theta") or fields.get("rope_theta")
    if theta is not None:
        values["rope_theta"] = theta
    missing = [name for name in ("vocab_size", *SIZE_FIELDS[:3]) if name not in fields]
    vocab_size = fields.get("vocab_size")
    try:
        if not missing and isinstance(vocab_size, int) and vocab_size > 0:
            return ModelConfig(**values), vocab_size
        problem = f"no {', '.join(missing)}" if missing else f"vocab_size {vocab_size!r}"
    except ValidationError as error:
        problem = "; ".join(
            ": ".join([*map(str, item["loc"]), item["msg"]]) for item in error.errors()
        )
    raise PreflightError(
        str(path), problem, "the sizes of a Llama model", "Check where the folder comes from."
    )


def _check_supported(fields: Fields, path: Path) -> None:
    """Refuse what our model of that architecture would compute differently."""
    name = fields.get("model_type")
    differences = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if differences is None:
        known = " or ".join(ARCHITECTURES)
        raise PreflightError(
            str(path),
            f"model_type {name!r}",
            f"model_type {known!r}",
            "Choose a model of the Llama architecture, without biases or scaled positions.",
        )
    for setting, (found, wanted) in differences(fields).items():
        if found != wanted:
            raise PreflightError(
                str(path),
                f"{setting} {found!r}",
                f"{setting} {wanted!r}",
                "Choose a model of the Llama architecture, without biases or scaled positions.",
            )


def _differences_of_llama(fields: Fields) -> dict[str, tuple[object, object]]:
    rope = _rope(fields, "rope_parameters") or _rope(fields, "rope_scaling")
    size, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    head_dim = fields.get("head_dim")
    if isinstance(size, int) and isinstance(heads, int) and heads > 0:
        head_dim = size // heads  # sizes that are no numbers are refused later, by the schema
    return {
        "hidden_act": (fields.get("hidden_act", "silu"), "silu"),
        "attention_bias": (fields.get("attention_bias", False), False),
        "mlp_bias": (fields.get("mlp_bias", False), False),
        "rope type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "head_dim": (fields.get("head_dim") or head_dim, head_dim),
    }


def _rope(fields: Fields, name: str) -> Fields:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


ARCHITECTURES: dict[str, Callable[[Fields], dict[str, tuple[object, object]]]] = {
    "llama": _differences_of_llama,
}
"""``model_type`` that can be read -> settings that have one value here: (found, wanted)."""


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


def weights_problem(path: Path) -> str | None:
    """Say why a file holds no weights, from its header and size; ``None`` if it may.

    The form of safetensors: the length of the header (8 bytes, little-endian), the header (JSON:
    name -> dtype, shape, ``data_offsets``), then the data.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            if start == b"version ":
                return "a pointer of Git LFS instead of the weights (`git lfs pull` fetches them)"
            length = int.from_bytes(start, "little")
            header = json.loads(stream.read(length)) if length < size else None
        if not isinstance(header, dict):
            return f"no safetensors file ({size} bytes)"
        entries = [entry for entry in header.values() if isinstance(entry, dict)]
        ends = [entry["data_offsets"][1] for entry in entries if "data_offsets" in entry]
        expected = 8 + length + max(ends, default=0)
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        return f"no weights ({error})"
    return None if size == expected else f"{size} bytes where its header says {expected}"


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
