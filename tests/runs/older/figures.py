"""The losses of a run by name, and how those of two runs compare."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TOLERANCE = 1e-5
"""Relative. On one machine no bit differs; another processor adds up in another order."""
TRAINED = ("pretrain", "sft")
MEASURED = (*TRAINED, "evaluate")


def figures(run: Path, stages: Sequence[str] = MEASURED) -> dict[str, float]:
    """Return every loss of every step, validation and result of ``stages``.

    Raises:
        ValueError: A step is there twice.
    """
    found: dict[str, float] = {}
    for name, value in _losses(run, stages):
        if name in found:
            raise ValueError(f"{name} twice in {run}")
        found[name] = value
    return found


def differences(found: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """Describe each expected figure that is missing or another one; later versions may add some."""
    described = []
    for name, value in expected.items():
        if name not in found:
            described.append(f"{name}: missing")
        elif not abs(found[name] - value) <= TOLERANCE * abs(value):  # NaN is another one, too
            described.append(f"{name}: {found[name]} instead of {value}")
    return described


def _losses(run: Path, stages: Sequence[str]) -> Iterator[tuple[str, float]]:
    for stage in (stage for stage in TRAINED if stage in stages):
        for line in (run / stage / "metrics.jsonl").read_text().splitlines():
            record = json.loads(line)
            for key in ("train/loss", "eval/loss"):
                if key in record:
                    yield f"{stage} step {record['train/global_step']} {key}", record[key]
    for stage in stages:
        yield from _leaves(json.loads((run / stage / "result.json").read_text()), f"{stage} result")


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix} {key}")
        elif "loss" in key or key in ("perplexity", "bits_per_byte", "unigram_entropy"):
            yield f"{prefix} {key}", item
