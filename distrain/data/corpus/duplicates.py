"""Phase *dedup*: decide over all ranges which cleaned documents go, and describe the rest."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distrain.config.data import SPLITS, DataConfig
from distrain.config.dedup import DecontaminateConfig
from distrain.data.corpus.cleaned import Keys, read_keys, read_rows
from distrain.data.corpus.cleaning import CleanedRange
from distrain.data.corpus.clusters import Reason
from distrain.data.corpus.contamination import TRAIN, CountHeldOutJob, FindContaminatedJob, Mask
from distrain.data.corpus.counts import (
    SHOWN_BROKEN,
    Counts,
    Rejection,
    RejectionSample,
    check_budget,
    sum_counts,
)
from distrain.data.corpus.decontaminate import NgramCounts, collect_ngrams, read_benchmarks
from distrain.data.corpus.dedup import RangeFeatures, deduplicate
from distrain.data.corpus.findings import inspect_source
from distrain.data.corpus.minhash import mix
from distrain.data.corpus.plan import InputPlan
from distrain.data.corpus.work_folder import WorkFolder
from distrain.data.workers import WorkerPool
from distrain.errors import DataError
from distrain.runs.durable import whole_file
from distrain.runs.records import read_json, write_json


@dataclass(frozen=True)
class Corpus:
    """The counts of each source after the phase, and the digest of what is kept.

    Args:
        sha256: Of the kept documents of every split, in order, and of the settings.
        sources: Counts of each source.
        broken: The first few documents that are no text.
        findings: The result of ``findings.inspect_source`` for each source.
    """

    sha256: str
    sources: dict[str, Counts]
    broken: list[str]
    findings: dict[str, dict[str, Any]]

    @property
    def counts(self) -> Counts:
        """Over all sources."""
        return sum_counts(self.sources.values())

    def to_record(self, settings: str) -> dict[str, Any]:
        """Return what JSON can hold; ``load_corpus`` reads it."""
        return {
            "sha256": self.sha256,
            "settings": settings,
            "sources": {name: counts.to_record() for name, counts in self.sources.items()},
            "broken": self.broken,
            "findings": self.findings,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Corpus":
        """Read what ``to_record`` returned."""
        sources = {name: Counts.from_record(counts) for name, counts in record["sources"].items()}
        return cls(record["sha256"], sources, record["broken"], record["findings"])


@dataclass(frozen=True)
class Decision:
    """The outcome of the phase.

    Args:
        masks: A ``Reason`` for each document of each range; 0 if it is kept.
        rejections: Source -> examples, of this phase and those before.
    """

    corpus: Corpus
    masks: list[Mask]
    rejections: dict[str, list[Rejection]]


def decide(
    plan: InputPlan,
    config: DataConfig,
    cleaned: Sequence[CleanedRange],
    work: WorkFolder,
    pool: WorkerPool,
) -> Decision:
    """Compare the documents of all ranges, in order; the first of several copies stays.

    Raises:
        DataError: Too much is broken, nothing is left, a split is empty, or labels are not as
            the recipe wants them.
    """
    broken = [example for done in cleaned for example in done.broken][:SHOWN_BROKEN]
    # First what ends the stage for good, then what costs.
    check_budget(sum_counts(done.counts for done in cleaned), broken, config.skip_budget)
    # Digest, split and size only: texts of the whole corpus would not fit into memory.
    keys = [read_keys(work.documents(planned)) for planned in plan.ranges]
    masks = _find_copies(plan, config, keys, work)
    # After the copies: several copies of one held-out text would make its n-grams look like
    # boilerplate, and copies that go need not be looked up.
    if config.dedup.decontaminate is not None:
        _decontaminate(plan, config.dedup.decontaminate, masks, work, pool)
    sources: dict[str, Counts] = {name: Counts() for name in plan.files}
    for planned, done, key, mask in zip(plan.ranges, cleaned, keys, masks, strict=True):
        counts = sources[planned.source]
        counts.add(done.counts)
        _drop(counts, key, mask)
    for counts in sources.values():
        # What the phase dropped must come out of what cleaning kept, document by document.
        counts.check()
    findings = {name: inspect_source(plan, config, name, masks, work) for name in plan.files}
    corpus = Corpus(_digest(plan.settings, keys, masks), sources, broken, findings)
    _check_splits(corpus, config)
    return Decision(corpus, masks, _rejections(plan, config, cleaned, masks, work))


def save_decision(decision: Decision, plan: InputPlan, work: WorkFolder) -> None:
    """Write masks and counts for the phases that follow; the counts last."""
    # The masks must be on the disk before the record that says that they are.
    with whole_file(work.masks, one_writer=True) as stream:
        np.save(stream, np.concatenate([np.zeros(0, np.uint8), *decision.masks]))
    write_json(work.decided, decision.corpus.to_record(plan.settings))


def load_masks(work: WorkFolder, cleaned: Sequence[CleanedRange]) -> list[Mask] | None:
    """Map the masks of all ranges; ``None`` if the phase is not done."""
    if read_json(work.decided) is None:
        return None
    masks = np.load(work.masks, mmap_mode="r")
    ends = np.cumsum([done.documents for done in cleaned])
    return np.split(masks, ends[:-1])


def _find_copies(
    plan: InputPlan, config: DataConfig, keys: Sequence[Keys], work: WorkFolder
) -> list[Mask]:
    features = [
        RangeFeatures(
            key.digests,
            key.splits,
            None
            if config.dedup.minhash is None
            else np.load(work.sketches(planned), mmap_mode="r"),
        )
        for planned, key in zip(plan.ranges, keys, strict=True)
    ]
    masks = deduplicate(features, config.dedup)
    if config.on_the_fly:
        # Of the train split only a sample is here, and nobody will know these masks.
        for key, mask in zip(keys, masks, strict=True):
            mask[key.splits == TRAIN] = Reason.KEPT
    return masks


def _decontaminate(
    plan: InputPlan,
    config: DecontaminateConfig,
    masks: Sequence[Mask],
    work: WorkFolder,
    pool: WorkerPool,
) -> None:
    """Mark the train documents that share stretches with held-out ones or with benchmarks."""
    files = [work.documents(planned) for planned in plan.ranges]
    ranges = list(zip(plan.ranges, files, masks, strict=True))
    counts: list[NgramCounts] = []
    if config.held_out:
        held_out = [CountHeldOutJob(config, *each) for each in ranges]
        counts = [found for _, found in pool.run(held_out)]
    np.save(work.ngrams, collect_ngrams(counts, read_benchmarks(config).hashes, config))
    jobs = [FindContaminatedJob(config, *each, work.ngrams) for each in ranges]
    # In whatever order they finish; each job has rows of its own range only.
    for number, rows in pool.run(jobs):
        masks[number][rows] = Reason.CONTAMINATED


def _drop(counts: Counts, keys: Keys, mask: Mask) -> None:
    for reason in Reason:
        for number, split in enumerate(SPLITS):
            chosen = (mask == reason) & (keys.splits == number)
            if reason != Reason.KEPT and (documents := int(chosen.sum())):
                text_bytes = int(keys.text_bytes[chosen].sum())
                counts.drop_kept(split, reason.name.lower(), documents, text_bytes)


def _digest(settings: str, keys: Sequence[Keys], masks: Sequence[Mask]) -> str:
    content = [settings]
    for number in range(len(SPLITS)):
        # Fed range by range, so it does not tell where ranges were cut.
        kept = hashlib.sha256()
        for key, mask in zip(keys, masks, strict=True):
            kept.update(key.digests[(mask == Reason.KEPT) & (key.splits == number)].tobytes())
        content.append(kept.hexdigest())
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _rejections(
    plan: InputPlan,
    config: DataConfig,
    cleaned: Sequence[CleanedRange],
    masks: Sequence[Mask],
    work: WorkFolder,
) -> dict[str, list[Rejection]]:
    samples = {name: RejectionSample(config.rejection_samples) for name in plan.files}
    for planned, done in zip(plan.ranges, cleaned, strict=True):
        for rejection in done.rejections:
            samples[planned.source].offer(rejection.reason, rejection.path, rejection.text)
    for source, sample in samples.items():
        numbers = [n for n, planned in enumerate(plan.ranges) if planned.source == source]
        for number, row, reason in _chosen(numbers, masks, config.rejection_samples):
            for path, text in read_rows(work.documents(plan.ranges[number]), [row]):
                # Beside those of cleaning: the sample keeps as many of each reason, whichever phase
                # found them.
                sample.offer(reason.name.lower(), path, text)
    return {source: sample.rejections() for source, sample in samples.items()}


def _chosen(
    numbers: Sequence[int], masks: Sequence[Mask], limit: int
) -> Iterator[tuple[int, int, Reason]]:
    """Choose dropped documents for the sample: those whose mixed place is lowest."""
    found: dict[Reason, list[tuple[int, int, int]]] = {}
    for number in numbers:
        for reason in set(Reason) - {Reason.KEPT}:
            rows = np.flatnonzero(masks[number] == reason)
            # A fair sample that needs no text: only the chosen documents are read. Range and row
            # fit into one value, as no range has 2^40 rows; the same are chosen after every
            # restart.
            places = mix((np.uint64(number) << np.uint64(40)) + rows.astype(np.uint64))
            lowest = np.argsort(places)[:limit]
            best = found.setdefault(reason, [])
            best += [(int(places[n]), number, int(rows[n])) for n in lowest]
            best.sort()
            del best[limit:]
    for reason, best in found.items():
        for _, number, row in best:
            yield number, row, reason


def _check_splits(corpus: Corpus, config: DataConfig) -> None:
    counts = corpus.counts
    dropped = ", ".join(f"{count} {reason}" for reason, count in counts.dropped.items())
    # First the whole corpus: an empty split has other remedies than no document at all.
    if not counts.kept.total():
        raise DataError(
            _setting(config),
            f"an empty corpus (dropped: {dropped or 'none'}"
            + (f", the first: {', '.join(corpus.broken)})" if corpus.broken else ")"),
            "documents with text",
            _remedy_of_empty(counts, config),
        )
    for split in SPLITS:
        if not counts.kept[split]:
            raise _empty_split(split, counts.kept, config)


def _setting(config: DataConfig) -> str:
    return "data.source" if config.source is not None else "data.sources"


def _remedy_of_empty(counts: Counts, config: DataConfig) -> str:
    if counts.broken:
        return f"Let {_setting(config)} name files of UTF-8 text."
    if counts.rejected["too_short"]:
        return f"Correct {_setting(config)}, or lower data.min_characters."
    if set(counts.rejected) - {"empty"}:
        return "Loosen the setting of data.curation that rejects the most."
    return f"Put documents with text there, or correct {_setting(config)}."


def _empty_split(split: str, kept: Counter[str], config: DataConfig) -> DataError:
    total = kept.total()
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    if split in fractions:
        remedy = (
            f"Add documents (cut long ones into several), or raise data.{split}_fraction from "
            # Two documents can be expected then; not above 0.4, as train needs room too.
            f"{fractions[split]} towards {min(0.4, max(2 / total, 2 * fractions[split])):.2g}."
        )
    else:
        remedy = "Add documents, or lower data.validation_fraction and data.test_fraction."
    return DataError(
        "data",
        f"no document in the {split} split ({total} documents in all)",
        "at least one document in each of train, validation and test",
        remedy,
    )
