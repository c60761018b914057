"""The ``prepare`` stage: raw text -> tokenizer, checked shards of three splits, pairs.

Killed at any moment, it goes on from the ranges and parts that are finished: each is written under
another name and renamed into place. ``plan.json`` says which input and settings they belong to.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.data import SPLITS
from distrain.config.recipe import PrepareStage
from distrain.data.corpus.cleaning import CleanedRange
from distrain.data.corpus.commit import Target
from distrain.data.corpus.duplicates import Corpus
from distrain.data.corpus.encode import EncodeSettings
from distrain.data.corpus.pipeline import Pipeline
from distrain.data.corpus.plan import InputPlan, check_inputs, load_plan, make_plan, save_plan
from distrain.data.corpus.work_folder import WorkFolder
from distrain.data.shards.manifest import Manifest, check_split
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.data.workers import WorkerPool, worker_count
from distrain.errors import DataError
from distrain.fault.parent import die_with_parent
from distrain.runs.durable import remove_unfinished, remove_whole
from distrain.runs.folder import StageFolder
from distrain.runs.phases import WHOLE, Share
from distrain.runs.records import read_json
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.held_out_prompt import held_out_prompt
from distrain.stages.prepare_result import figures
from distrain.stages.prepare_tokens import (
    adopt_tokenizer,
    include_tokens,
    look_at_sources,
    with_tokenizer_files,
)

NOT_OF_THE_RESULT = {"workers", "keep_cleaned", "rejection_samples", "skip_budget"}
"""Settings of ``data`` that decide no byte of the splits."""

log = logging.getLogger(__name__)


def run_stage(context: StageContext) -> Outcome:
    """Make what is not there yet; local processes share the ranges."""
    return Outcome(prepare(typed(context.recipe, context.name, PrepareStage), context.folder))


def prepare(stage: PrepareStage, folder: StageFolder) -> dict[str, Any]:
    """Fill ``folder``; returns the figures of ``result.json``."""
    started = time.monotonic()
    looked = look_at_sources(stage, folder)
    if stage.data.text_sources:
        result = prepare_text(stage, folder)
    else:
        adopt_tokenizer(stage, folder)
        result = {}
    tokenizer = Tokenizer.load(folder.tokenizer)
    if looked:
        result = include_tokens(stage, folder, looked, tokenizer, result)
    return result | {
        "vocab_size": tokenizer.vocab_size,
        "prompt": held_out_prompt(folder.path, tokenizer),
        "seconds": round(time.monotonic() - started, 1),
    }


def prepare_text(stage: PrepareStage, folder: StageFolder) -> dict[str, Any]:
    """Make tokenizer, splits and pairs of the sources of text; returns their figures."""
    plan = open_plan(stage, folder)
    finished = find_finished(stage, folder)
    targets = targets_of(stage)
    missing = [target for target in targets if target not in finished]
    if missing:
        with pipeline_of(stage, folder, plan) as pipeline:
            finished = make_missing(pipeline, finished)
    _tidy(stage, folder)
    corpus = Corpus.from_record(_known(folder.corpus))
    manifests = {target: finished[target] for target in targets}
    return figures(corpus, manifests)


@contextmanager
def pipeline_of(
    stage: PrepareStage, folder: StageFolder, plan: InputPlan, share: Share = WHOLE
) -> Iterator[Pipeline]:
    """Yield the pipeline with as many workers as it may have, and as a share has ranges."""
    workers = min(worker_count(stage.data.workers), len(share.numbers(len(plan.ranges))))
    with WorkerPool(max(1, workers), die_with_parent) as pool:
        yield Pipeline(with_tokenizer_files(stage, folder), folder, plan, pool)


def open_plan(stage: PrepareStage, folder: StageFolder) -> InputPlan:
    """Return the plan of an earlier attempt, if it still fits, else make one and begin anew.

    Raises:
        DataError: A source is not there, or a file of the plan is not what it was.
    """
    settings = digest_of_settings(stage)
    plan = load_plan(folder.plan)
    if plan is not None and plan.settings == settings:
        check_inputs(plan, stage.data, folder.path)
        return plan
    log.info("listing %s", ", ".join(stage.data.text_sources))
    plan = make_plan(stage.data, settings)
    _discard(folder)
    save_plan(plan, folder.plan)
    files = sum(map(len, plan.files.values()))
    log.info("%d files in %d ranges", files, len(plan.ranges))
    return plan


def digest_of_settings(stage: PrepareStage) -> str:
    """Hash all settings that decide what is made of the input."""
    settings = stage.model_dump(mode="json", exclude={"needs": True, "data": NOT_OF_THE_RESULT})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def targets_of(stage: PrepareStage) -> list[Target]:
    """List what is to be written; on the fly, the train split is left to those who read it."""
    return [
        (split, source)
        for split in SPLITS
        for source in stage.data.text_sources
        if not (stage.data.on_the_fly and split == "train")
    ]


def find_finished(stage: PrepareStage, folder: StageFolder) -> dict[Target, Manifest]:
    """Return what an earlier attempt committed, as far as it is whole and of one corpus."""
    record = read_json(folder.corpus)
    if record is None or not folder.tokenizer.exists():
        return {}
    fingerprint = Tokenizer.load(folder.tokenizer).fingerprint
    finished = {}
    for split, source in targets_of(stage):
        manifest = _whole(folder, split, source)
        if manifest is not None and (manifest.corpus, manifest.tokenizer) == (
            record["sha256"],
            fingerprint,
        ):
            finished[split, source] = manifest
    return finished


def make_missing(pipeline: Pipeline, finished: Mapping[Target, Manifest]) -> dict[Target, Manifest]:
    """Go through the phases; what is ``finished`` stays if the corpus is still the same."""
    cleaned = pipeline.clean()
    decided = decide(pipeline, cleaned, finished)
    pipeline.encode(decided.settings, cleaned)
    return decided.whole | pipeline.commit(decided.settings, decided.missing)


@dataclass(frozen=True)
class Decided:
    """What is to be encoded, and with what.

    Args:
        whole: Committed before, and still of this corpus and tokenizer.
        missing: All other targets.
    """

    settings: EncodeSettings
    whole: dict[Target, Manifest]
    missing: list[Target]


def decide(
    pipeline: Pipeline, cleaned: Sequence[CleanedRange], finished: Mapping[Target, Manifest]
) -> Decided:
    """Settle all that needs the documents of all ranges, or read how it was settled."""
    corpus, masks = pipeline.dedup(cleaned)
    _report(corpus)
    tokenizer = pipeline.tokenizer(masks)
    whole = {
        target: manifest
        for target, manifest in finished.items()
        if (manifest.corpus, manifest.tokenizer) == (corpus.sha256, tokenizer.fingerprint)
    }
    missing = [target for target in targets_of(pipeline.stage) if target not in whole]
    settings = pipeline.settings(tokenizer, corpus, masks, {split for split, _ in missing})
    return Decided(settings, whole, missing)


def _report(corpus: Corpus) -> None:
    counts = corpus.counts
    log.info(
        "%d documents, %.1f MB of text; dropped: %s",
        counts.kept.total(),
        counts.text_bytes.total() / 1e6,
        ", ".join(f"{count} {reason}" for reason, count in counts.dropped.items()) or "none",
    )
    for broken in corpus.broken:
        log.warning("left out: %s", broken)


def _whole(folder: StageFolder, split: str, source: str) -> Manifest | None:
    if not (folder.split(split) / source).exists():
        return None
    try:
        return check_split(folder.path, split, source)
    except DataError as error:
        log.warning("%s; it is made again", error)
        return None


def _known(path: Path) -> dict[str, Any]:
    record = read_json(path)
    assert record is not None, "written by the dedup phase"
    return record


def _discard(folder: StageFolder) -> None:
    """Remove what was made of another corpus, or by other settings."""
    folder.plan.unlink(missing_ok=True)  # first: what is left then belongs to no plan
    for file in (folder.corpus, folder.tokenizer, folder.rejections):
        file.unlink(missing_ok=True)
    for path in (folder.work, folder.ranges, *map(folder.split, SPLITS)):
        remove_whole(path)


def _tidy(stage: PrepareStage, folder: StageFolder) -> None:
    """Remove what only an unfinished stage needs."""
    remove_unfinished(folder.path)
    work = WorkFolder(folder.work)
    for path in (work.encoded, work.locks):
        remove_whole(path)
    for leftover in work.cleaned.glob("*/.*"):  # of processes that were killed
        leftover.unlink()
    if not stage.data.keep_cleaned:
        remove_whole(folder.work)
