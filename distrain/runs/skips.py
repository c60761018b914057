"""``<stage>/skips.jsonl``: which steps are left out of a stage's training, once and for all.

A decision is on disk before it is acted on, and is never taken back: whoever trains on from any
checkpoint, older or newer than the decision, leaves out the same steps. So a stage that was killed,
or goes on from an older checkpoint, comes to the same bits.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from distrain.errors import CheckpointError
from distrain.runs import durable
from distrain.runs.folder import StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import finite


@dataclass(frozen=True)
class Skip:
    """One decision: the steps from ``first_step`` to ``last_step``, both of them left out.

    They are counted and their samples are used up, so every other step reads what it always did.
    Decisions do not overlap.

    Args:
        first_step: From 1, as ``train/global_step`` counts.
        first_sample: The first one left out, counted over the run.
        end_sample: The one after the last.
        reason: What spiked: ``loss`` or ``grad_norm``.
        decided_at_step: The step that did.
        rewound_to: Step of the newest checkpoint before them, to which training went back;
            ``None``: only the deciding step is left out, in its place.
        measured: Of a step that was left out in its place, by metric; ``None`` for no number.
    """

    first_step: int
    last_step: int
    first_sample: int
    end_sample: int
    reason: str
    decided_at_step: int
    rewound_to: int | None = None
    measured: Mapping[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Form in the file."""
        return {name: finite(value) for name, value in asdict(self).items()}


def read_skips(folder: StageFolder) -> tuple[Skip, ...]:
    """Read all decisions, in the order in which they were made.

    A last line without its end is one whose writer was killed: that decision was not made.

    Raises:
        CheckpointError: A line is damaged. To pass over it would be to train on what is left out.
    """
    path, damaged = folder.skips, list[int]()
    records = list(read_records(path, damaged.append))
    try:
        if damaged:
            raise ValueError(f"line {damaged[0]} is no JSON object")  # noqa: TRY301
        return tuple(map(_parse, records))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            str(path),
            f"what cannot be understood ({error})",
            "records of steps that are left out, as distrain wrote them",
            "Restore the file from a copy, or start a new run: without it, training would take the "
            "steps that were left out.",
        ) from error


def append_skip(folder: StageFolder, skip: Skip) -> None:
    """Write a decision, which is on disk when this returns. By one process at a time.

    Raises:
        OSError: It could not be written; then it may be taken for not made, or made again.
    """
    durable.append_line(folder.skips, json.dumps(skip.to_json(), allow_nan=False))


def digest(skips: Iterable[Skip]) -> str:
    """Name decisions, and their order."""
    text = json.dumps([skip.to_json() for skip in skips], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def find_skip(skips: Sequence[Skip], first_sample: int, num_samples: int) -> Skip | None:
    """Return the decision by which a step is left out, from the samples that it reads.

    By samples, not by its number: where the batch size was changed since, another step reads them.
    """
    end = first_sample + num_samples
    found = (skip for skip in skips if skip.first_sample < end and first_sample < skip.end_sample)
    return next(found, None)


def _parse(record: Mapping[str, Any]) -> Skip:
    skip = Skip(**record)
    counts = (skip.first_step, skip.last_step, skip.first_sample, skip.end_sample)
    if not all(isinstance(count, int) for count in counts):
        raise TypeError("a count that is no whole number")
    return skip


def number_of(value: float | None) -> float:
    """Return a recorded figure; NaN where there was no number."""
    return math.nan if value is None else value
