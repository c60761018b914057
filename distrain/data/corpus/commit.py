"""Phase *commit*: the shards of all ranges, put in order, become the splits of the stage."""

import hashlib
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from distrain.data.corpus.encode import EncodeSettings, read_pairs
from distrain.data.corpus.plan import InputPlan
from distrain.data.corpus.work_folder import WorkFolder
from distrain.data.shards.manifest import MANIFEST, Manifest, parse_manifest
from distrain.data.shards.writer import ShardWriter
from distrain.errors import DataError

ADOPT_SHARE = 4
"""A range that fills at least 1/4 of a shard keeps its own shards, which are linked; smaller ones
are copied together, so that a large corpus has no myriads of small files."""

Target = tuple[str, str]
"""Split and source."""


def commit_splits(
    folder: Path,
    plan: InputPlan,
    work: WorkFolder,
    settings: EncodeSettings,
    targets: Collection[Target],
) -> dict[Target, Manifest]:
    """Assemble ``targets`` below ``folder``; returns their manifests.

    Raises:
        DataError: A split that should have pairs gets none.
    """
    origin = settings.origin()
    with ExitStack() as stack:
        writers = {
            (split, source): stack.enter_context(
                ShardWriter(
                    folder / split / source,
                    origin,
                    shard_tokens=settings.shard_tokens,
                    has_pairs=settings.pairs is not None,
                )
            )
            for split, source in targets
        }
        # In the order of the plan, whatever order the ranges were made in: so the shards of a
        # corpus depend neither on the number of workers nor on restarts.
        for planned in plan.ranges:
            for (split, source), writer in writers.items():
                if source == planned.source:
                    _take(writer, work.shards(planned) / split / source, settings)
        if settings.pairs is not None:
            # Before the first commit: a split without pairs then fails the stage and leaves no
            # split.
            _add_pairs(writers, plan, work)
        return {target: writer.commit() for target, writer in writers.items()}


def _take(writer: ShardWriter, part: Path, settings: EncodeSettings) -> None:
    record = parse_manifest((part / MANIFEST).read_text(encoding="utf-8"), part / MANIFEST)
    # Decided by sizes alone, so the same ranges always give the same files.
    if record.tokens * ADOPT_SHARE >= settings.shard_tokens:
        writer.adopt(part)
    else:
        writer.extend(part)


def _add_pairs(writers: dict[Target, ShardWriter], plan: InputPlan, work: WorkFolder) -> None:
    """Add the pairs of all ranges; a prompt that came before, in any split, makes none."""
    seen: set[bytes] = set()
    counts = {split: 0 for split, _ in writers}
    for planned in plan.ranges:
        for split, pair in read_pairs(work.pairs(planned)):
            # Over all splits, in the order of the plan: a prompt trained on must not be measured
            # too.
            digest = hashlib.blake2b(pair["prompt"].encode(), digest_size=16).digest()
            if digest in seen:
                continue
            seen.add(digest)
            # Counted even where another source's target is not wanted now: the check is of the
            # split.
            if split in counts:
                counts[split] += 1
            if (split, planned.source) in writers:
                writers[split, planned.source].add_pair(pair)
    for split, count in counts.items():
        if count == 0:
            raise DataError(
                "pairs.kind",
                f"no documented Python function in the {split} split",
                "at least one pair in each split",
                "Set pairs.kind to none, or add Python sources with docstrings.",
            )
