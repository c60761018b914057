"""Instruction pairs: prompt and answer, made from documents."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from distrain.config.data import MAIN_SOURCE
from distrain.data.chats.example import Example
from distrain.data.shards.manifest import PAIRS, list_sources, open_manifest
from distrain.errors import DataError


@dataclass(frozen=True, slots=True)
class Pair:
    """What is asked and what should be answered.

    Args:
        path: Where it comes from: ``json/decoder.py:42``.
    """

    prompt: str
    answer: str
    path: str

    def to_json(self) -> dict[str, str]:
        """Form of a line in ``pairs.jsonl``."""
        return asdict(self)


def open_pairs(folder: Path, split: str, *, stage_kind: str, verify: bool = True) -> list[Pair]:
    """Read the pairs of all sources in a split of the prepare stage, behind the split's guard.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
        DataError: The split is missing or damaged, or was made without pairs.
    """
    pairs: list[Pair] = []
    for source in list_sources(folder, split) or [MAIN_SOURCE]:
        path, manifest = open_manifest(folder, split, source, stage_kind=stage_kind, verify=verify)
        if manifest.pairs is None:
            raise DataError(
                str(path),
                "a split without instruction pairs",
                f"a {PAIRS} beside the shards",
                "Set pairs.kind to docstrings in the prepare stage and run it again, or give sft "
                "a file of its own as data.path.",
            )
        with (path / PAIRS).open(encoding="utf-8") as lines:
            pairs += [Pair(**json.loads(line)) for line in lines]
    return pairs


def example_of_pair(pair: Pair) -> Example:
    """Return a pair as a chat of one question and its answer."""
    turns = (
        {"role": "user", "content": pair.prompt},
        {"role": "assistant", "content": pair.answer},
    )
    return Example(pair.path, turns)
