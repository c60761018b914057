"""Whether a folder holds the weights that its ``config.json`` describes, by their headers."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from distrain.config.huggingface import CONFIG_FILE, weight_files, weights_problem
from distrain.config.models import ModelConfig
from distrain.config.pretrained.safetensors_header import read_header
from launcher.model_counts import count_folder

SHOWN = 3
"""Names that a message spells out."""
PASSED_OVER = ("rotary_emb.inv_freq",)
"""Ends of names that old conversions stored, and that are no weights."""
REMEDY = (
    f"expected the weights that {CONFIG_FILE} describes; copy or download the folder again, or "
    "name the one that these weights belong to"
)
TIED = "lm_head.weight"


def weights_problem_of(folder: Path, model: ModelConfig, vocab_size: int) -> str | None:
    """Say why a folder's weights cannot be those of its model.

    Raises:
        PreflightError: The list of several files is damaged.
    """
    files = weight_files(folder)
    return files_problem(files) or tensors_problem(files, folder, model, vocab_size)


def files_problem(files: Sequence[Path]) -> str | None:
    """Say what is wrong with the first file of weights that cannot be read."""
    for file in files:
        if not file.is_file():
            return _missing(file)
        problem = weights_problem(file)
        if problem is not None:
            return (
                f"found {file}, {problem}; expected the weights; copy or download the folder again"
            )
    return None


def _missing(file: Path) -> str:
    folder = file.parent
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if not pickled:
        return (
            f"found {folder} without {file.name}; expected the weights beside {CONFIG_FILE}; copy "
            "or download the folder again"
        )
    command = (
        "from transformers import AutoModelForCausalLM as M; "
        f"M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')"
    )
    return (
        f"found {folder} with pickled weights ({pickled[0]}), which run code when they are read; "
        f'expected {file.name}; if you trust them, convert them once: `python -c "{command}"`, '
        f"copy tokenizer.json beside them and name {folder}-safetensors"
    )


def tensors_problem(
    files: Sequence[Path], folder: Path, model: ModelConfig, vocab_size: int
) -> str | None:
    """Say which weights of a folder are missing, too many or of another shape.

    What is on disk otherwise than in the module, as experts are, only the library can tell.
    """
    expected = model.tensor_shapes(vocab_size)
    if expected is None:
        problem = None if model.counts_itself else count_folder(folder).problem
        return None if problem is None else f"found {problem}"
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        found |= {name: tensor.shape for name, tensor in read_header(file).items()}
    problem = _mismatch(found, expected, folder)
    return None if problem is None else f"{problem}; {REMEDY}"


def _mismatch(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], folder: Path
) -> str | None:
    is_tied = TIED not in expected
    there = {
        name for name in found if not name.endswith(PASSED_OVER) and not (is_tied and name == TIED)
    }
    missing, surplus = sorted(expected.keys() - there), sorted(there - expected.keys())
    if missing:
        return f"found {folder} without {_named(missing, surplus)}"
    if surplus:
        return f"found {_named(surplus, expected)} in {folder}, which the model does not have"
    for name, shape in expected.items():
        if found[name] != shape:
            return f"found {name} of shape {found[name]} in {folder}, where the sizes say {shape}"
    return None


def _named(names: list[str], others: Collection[str]) -> str:
    parts = []
    for name in names[:SHOWN]:
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        parts.append(f"{name} (like {near[0]})" if near else name)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(parts) + more
