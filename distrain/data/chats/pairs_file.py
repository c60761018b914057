"""Instruction pairs: prompt and answer, made from documents, or read from a user's file."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from distrain.config.data import MAIN_SOURCE
from distrain.config.rows import PAIR_FIELDS, pair_problem
from distrain.data.curate.normalize import normalize
from distrain.data.shards.manifest import PAIRS, list_sources, open_manifest
from distrain.errors import DataError

SHOWN = 5
MIN_PROMPTS = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """What is asked and what should be answered.

    Args:
        path: Where it comes from: ``json/decoder.py:42``, or line of a user's file.
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


def read_user_pairs(path: Path, validation_fraction: float) -> tuple[list[Pair], list[Pair]]:
    """Read JSON lines with ``prompt`` and ``answer``; return train and validation pairs.

    The hash of the prompt decides, so that equal prompts stay together. Of a file so small that
    fewer than two prompts fall to validation, the two with the lowest hashes do.

    Raises:
        DataError: The file is missing, has bad lines (all are counted, the first few named), or
            holds fewer than four different prompts.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(
            str(path),
            f"no readable file ({error.strerror})",
            "JSON lines with the fields prompt and answer",
            "Correct data.path of the sft stage.",
        ) from error
    pairs, problems = [], []
    for number, line in enumerate(lines, start=1):
        found = _parse_line(line, f"{path.name}:{number}") if line.strip() else None
        if isinstance(found, Pair):
            pairs.append(found)
        elif found is not None:
            problems.append(f"line {number}: {found}")
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(
            str(path),
            f"{len(problems)} bad lines: {'; '.join(problems[:SHOWN])}{more}",
            'on each line {"prompt": "...", "answer": "..."}, both not empty',
            f"Correct or remove line {problems[0].split()[1].rstrip(':')} first.",
        )
    places = [_place(pair.prompt) for pair in pairs]
    lowest = sorted(set(places))
    if len(lowest) < MIN_PROMPTS:
        raise DataError(
            str(path),
            f"{len(lowest)} different prompts",
            f"at least {MIN_PROMPTS}: two to train on and two to validate with",
            "Add pairs.",
        )
    limit = max(validation_fraction, lowest[1])
    chosen = [place <= limit for place in places]
    return (
        [pair for pair, is_held_out in zip(pairs, chosen, strict=True) if not is_held_out],
        [pair for pair, is_held_out in zip(pairs, chosen, strict=True) if is_held_out],
    )


def _parse_line(line: bytes, path: str) -> Pair | str:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return "not UTF-8"
    except ValueError as error:
        return f"not JSON ({error})"
    problem = pair_problem(record)
    if problem is not None:
        return problem
    fields = {name: normalize(record[name]) for name in PAIR_FIELDS}
    blank = [name for name, text in fields.items() if not text.strip()]
    return f"'{blank[0]}' is empty or no text" if blank else Pair(**fields, path=path)


def _place(prompt: str) -> float:
    # Uniform in [0, 1), and the same on every machine, unlike Python's own hash of a text.
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest()) / 2**64
