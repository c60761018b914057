"""Whether an exported folder is the model: transformers loads it elsewhere, logits are compared."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distrain.config.models import ModelConfig
from distrain.errors import TrainingError
from distrain.models.weights.filling import build_empty, fill_module
from distrain.models.weights.source import CastWeights, WeightSource, as_float32
from distrain.monitor.memory import available_bytes
from distrain.stages import foreign_reader

ROWS, TOKENS = 2, 32
STRIDE = 7919
"""A prime, so that the fixed batch goes over the whole vocabulary."""
TOLERANCE = 1e-3
"""Of logits, in parts of the largest: two codes in float32 differ by a hundredth of it, a weight in
the wrong place by far more."""
BYTES_PER_PARAMETER = 4
LITTLE_MEMORY = "the job has too little memory, or export.reload should be false"
SPARE_BYTES = 2**30
"""For the libraries, and what is computed."""


@dataclass(frozen=True)
class Reload:
    """What became of the comparison.

    Args:
        compared: Whether it was made.
        reason: Why not.
        largest_difference: Of two logits, in the fixed batch.
        largest_logit: Beside which to see it.
        loaded_as: The class that transformers chose.
        seconds: What it cost.
    """

    compared: bool
    reason: str | None = None
    largest_difference: float | None = None
    largest_logit: float | None = None
    loaded_as: str | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what is known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def compare_reloaded(
    folder: Path, weights: WeightSource, config: ModelConfig, vocab_size: int
) -> Reload:
    """Load ``folder`` with transformers in another process; compare its logits with our model's.

    Both in float32 on the CPU, one after the other: each holds the model once.

    Args:
        folder: Complete, wherever it lies.
        weights: Every parameter under its own name, with the values that were written.
        config: Sizes of the model.
        vocab_size: Rows of the embedding.

    Returns:
        That they are equal, or why they could not be compared: transformers is not installed or
        does not know the model, or this machine has too little memory.

    Raises:
        TrainingError: The folder cannot be loaded, or is another model.
    """
    started = time.monotonic()
    needed = BYTES_PER_PARAMETER * sum(f.on_meta().numel() for f in weights.forms.values())
    available = available_bytes()
    if available is not None and needed + SPARE_BYTES > available:
        return Reload(
            False,
            f"float32 weights take {needed / 1e9:.1f} GB and the libraries {SPARE_BYTES / 1e9:.1f}"
            f" GB, and {available / 1e9:.1f} GB of memory are free",
        )
    ids = fixed_batch(vocab_size, min(TOKENS, config.max_position_embeddings))
    with tempfile.TemporaryDirectory() as scratch:
        answer, theirs = _read_elsewhere(folder, ids, Path(scratch))
    if "unable" in answer:
        return Reload(False, str(answer["unable"]))
    ours = _logits(weights, config, vocab_size, ids)
    difference, largest = _compare(folder, answer, theirs.view(-1), ours)
    seconds = round(time.monotonic() - started, 1)
    return Reload(True, None, difference, largest, str(answer["class"]), seconds)


def fixed_batch(vocab_size: int, tokens: int) -> Tensor:
    """Return the ids that are compared, shape (rows, tokens)."""
    return (torch.arange(ROWS * tokens) * STRIDE % vocab_size).view(ROWS, tokens)


def _read_elsewhere(folder: Path, ids: Tensor, scratch: Path) -> tuple[dict[str, Any], Tensor]:
    ids_file, answer, logits = scratch / "ids.json", scratch / "answer.json", scratch / "logits"
    ids_file.write_text(json.dumps(ids.tolist()), encoding="utf-8")
    command = [sys.executable, "-I", foreign_reader.__file__]
    command += map(str, (folder.resolve(), ids_file, answer, logits))
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        command, cwd=scratch, env=os.environ | quiet, capture_output=True, text=True, check=False
    )
    if ended.returncode == -signal.SIGKILL:  # the kernel, within a job's own limit of memory
        return {"unable": f"the process that loads it was killed: {LITTLE_MEMORY}"}, torch.zeros(1)
    if ended.returncode or not answer.exists():
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise _differs(folder, f"that transformers cannot load it: {last}")
    read = json.loads(answer.read_text(encoding="utf-8"))
    values = bytearray(logits.read_bytes()) if logits.exists() else bytearray(4)
    return read, torch.frombuffer(values, dtype=torch.float32)


def _logits(weights: WeightSource, config: ModelConfig, vocab_size: int, ids: Tensor) -> Tensor:
    model = build_empty(config, vocab_size)
    fill_module(model, CastWeights(weights, as_float32), torch.device("cpu"))
    with torch.no_grad():
        logits: Tensor = model.eval()(ids)
    return logits.float()


def _compare(
    folder: Path, answer: dict[str, Any], theirs: Tensor, ours: Tensor
) -> tuple[float, float]:
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if answer[what]:
            names = ", ".join(answer[what][:3])
            raise _differs(folder, f"{len(answer[what])} {what.replace('_', ' ')}: {names}")
    if theirs.numel() != ours.numel():
        raise _differs(folder, f"{theirs.numel()} logits, where ours are {tuple(ours.shape)}")
    gaps = (theirs.view(ours.shape) - ours).abs()
    difference, largest = float(gaps.max()), float(ours.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):  # also where one is no number
        row, token, word = (int(i) for i in torch.unravel_index(gaps.argmax(), gaps.shape))
        raise _differs(
            folder,
            f"{answer['class']} with logits that differ by up to {difference:.3g} (row {row}, "
            f"position {token}, token {word}; the largest logit is {largest:.3g})",
        )
    return difference, largest


def _differs(folder: Path, found: str) -> TrainingError:
    return TrainingError(
        str(folder),
        found,
        "in another process the logits of the model that was trained",
        "Compare the versions of transformers; export.reload: false writes the folder unseen.",
    )
