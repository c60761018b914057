"""Findings of the dedup phase on a source beside its counts: distribution of quality, labels."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distrain.config.data import DataConfig
from distrain.data.corpus.cleaned import read_column, read_keys
from distrain.data.corpus.clusters import Reason
from distrain.data.corpus.contamination import Mask
from distrain.data.corpus.labels import Labelled, inspect_labels
from distrain.data.corpus.plan import InputPlan
from distrain.data.corpus.work_folder import WorkFolder
from distrain.data.curate.quality import QUALITY_COLUMNS, summarize


def inspect_source(
    plan: InputPlan, config: DataConfig, source: str, masks: Sequence[Mask], work: WorkFolder
) -> dict[str, Any]:
    """Return what JSON can hold: ``quality`` of kept documents, ``labels`` of all cleaned ones.

    Labels are looked at before copies go: copies are how one text has two labels.

    Raises:
        DataError: Labels are not as ``data.labels`` wants them.
    """
    files = [
        (work.documents(planned), mask)
        for planned, mask in zip(plan.ranges, masks, strict=True)
        if planned.source == source
    ]
    found: dict[str, Any] = {}
    if config.quality:
        # One column of one range at a time: a corpus has billions of rows.
        found["quality"] = {
            name: summarize(
                read_column(file, name).to_numpy()[mask == Reason.KEPT] for file, mask in files
            ).to_record()
            for name in QUALITY_COLUMNS
        }
    if config.labels is not None:
        report = inspect_labels(_labelled([file for file, _ in files]))
        # Before anything of this phase is written: a source that fails leaves nothing to go on
        # with.
        report.check(config.labels, "data.labels")
        found["labels"] = asdict(report)
    return found


def _labelled(files: Sequence[Path]) -> Iterator[Labelled]:
    for file in files:
        paths = read_column(file, "path").to_pylist()
        labels = read_column(file, "label").to_pylist()
        digests = read_keys(file).digests
        for path, label, digest in zip(paths, labels, digests, strict=True):
            yield Labelled(path, digest.tobytes(), label)
