"""The phases of a prepare stage over the ranges of its plan; each goes on from what is finished.

*clean* and *encode* work on ranges, in any order and in several processes; *dedup*, *tokenizer* and
*commit* see them all, in the order of the plan. No result depends on who made which range.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from distrain.config.data import SPLITS
from distrain.config.recipe import PrepareStage
from distrain.data.corpus.cleaning import CleanedRange, CleanJob, load_cleaned
from distrain.data.corpus.commit import Target, commit_splits
from distrain.data.corpus.contamination import Mask
from distrain.data.corpus.counts import Counts, Rejection, check_budget
from distrain.data.corpus.duplicates import Corpus, Decision, decide, load_masks, save_decision
from distrain.data.corpus.encode import EncodeJob, EncodeSettings, is_encoded
from distrain.data.corpus.plan import InputPlan
from distrain.data.corpus.texts import train_texts
from distrain.data.corpus.work_folder import WorkFolder
from distrain.data.shards.manifest import Manifest
from distrain.data.tokenizer.encoders.choose import choose_encoder
from distrain.data.tokenizer.encoders.report import EngineReport
from distrain.data.tokenizer.huggingface import copy_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.data.workers import WorkerPool, available_cpus
from distrain.fault.page import mark
from distrain.runs.durable import write_text
from distrain.runs.folder import StageFolder
from distrain.runs.phases import WHOLE, Share
from distrain.runs.records import json_text, read_json, write_json

SAMPLE_BYTES = 8_000_000
"""Text that engines are compared on, at most; what they take of it is ``SAMPLE_CHARACTERS``."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pipeline:
    """One prepare stage at work."""

    stage: PrepareStage
    folder: StageFolder
    plan: InputPlan
    pool: WorkerPool

    @property
    def work(self) -> WorkFolder:
        """Where ranges are put."""
        return WorkFolder(self.folder.work)

    def clean(self) -> list[CleanedRange]:
        """Clean the ranges that are not finished; returns the records of all.

        Raises:
            DataError: More is broken than ``data.skip_budget``, or a file changed.
        """
        numbers = range(len(self.plan.ranges))
        done = self.load_cleaned(numbers)
        missing = [number for number in numbers if number not in done]
        _log_start("cleaning", len(missing), len(numbers))
        total = Counts()
        for record in done.values():
            total.add(record.counts)
        mark("ranges")
        for place, record in self.pool.run(self._clean_jobs(missing)):
            done[missing[place]] = record
            total.add(record.counts)
            # After each range and not at the end: a corpus of the wrong form is refused within
            # minutes. Examples by number, for the order in which ranges finish is chance.
            examples = [example for number in sorted(done) for example in done[number].broken]
            check_budget(total, examples[:3], self.stage.data.skip_budget)
            log.debug("%d of %d ranges are clean", len(done), len(numbers))
        mark("prepare")
        return [done[number] for number in numbers]

    def clean_share(self, share: Share) -> None:
        """Clean the ranges of a share that are not finished.

        Raises:
            DataError: More of a range is broken than of the whole corpus may be, or a file changed.
        """
        numbers = share.numbers(len(self.plan.ranges))
        done = self.load_cleaned(numbers)
        missing = [number for number in numbers if number not in done]
        _log_start("cleaning", len(missing), len(numbers))
        for _ in self.pool.run(self._clean_jobs(missing)):
            pass

    def load_cleaned(self, numbers: Iterable[int]) -> dict[int, CleanedRange]:
        """Return the records of those among some ranges that are cleaned, by number."""
        return {
            number: record
            for number in numbers
            if (record := load_cleaned(self.work, self.plan.ranges[number])) is not None
        }

    def _clean_jobs(self, numbers: Iterable[int]) -> list[CleanJob]:
        return [
            CleanJob(
                self.stage.data, self.plan.ranges[number], self.work.root, self._train_bytes(number)
            )
            for number in numbers
        ]

    def is_decided(self) -> bool:
        """Whether deduplication, tokenizer and engine are settled."""
        settled = (self.work.decided, self.folder.tokenizer, self.work.engine)
        return all(path.exists() for path in settled)

    def dedup(self, cleaned: Sequence[CleanedRange]) -> tuple[Corpus, list[Mask]]:
        """Decide which documents are copies, unless it is decided; returns what is left.

        Raises:
            DataError: Nothing is left, or a split is empty.
        """
        masks = load_masks(self.work, cleaned)
        record = read_json(self.work.decided)
        if masks is not None and record is not None:
            return Corpus.from_record(record), masks
        decision = decide(self.plan, self.stage.data, cleaned, self.work, self.pool)
        # The decision last: whatever a crash leaves before it is decided again, to the same end.
        _write_rejections(self.folder.rejections, decision.rejections)
        self._replace_corpus(decision)
        save_decision(decision, self.plan, self.work)
        return decision.corpus, decision.masks

    def _replace_corpus(self, decision: Decision) -> None:
        """Write down what is there; forget a tokenizer that was trained on something else."""
        record = decision.corpus.to_record(self.plan.settings)
        known = read_json(self.folder.corpus)
        # Of an earlier attempt over other documents, whose ids would mean other texts.
        if known is not None and known["sha256"] != record["sha256"]:
            self.folder.tokenizer.unlink(missing_ok=True)
        write_json(self.folder.corpus, record)

    def tokenizer(self, masks: Sequence[Mask]) -> Tokenizer:
        """Train on the train split only, or copy the one that the recipe names."""
        config = self.stage.tokenizer
        if self.folder.tokenizer.exists():
            return Tokenizer.load(self.folder.tokenizer)
        if config.path is not None:
            copy_tokenizer(Path(config.path).expanduser(), self.folder.path)
            return Tokenizer.load(self.folder.tokenizer)
        log.info("training a tokenizer (%s) of %d tokens", config.model, config.vocab_size)
        content = train_tokenizer(
            train_texts(self._documents(), masks, config.train_bytes),
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            model=config.model,
            split=config.split,
        )
        write_text(self.folder.tokenizer, content)
        tokenizer = Tokenizer.load(self.folder.tokenizer)
        if tokenizer.vocab_size < config.vocab_size:
            log.warning(
                "the vocabulary has %d tokens, not %d: the train text holds no further pair that "
                "occurs %d times",
                tokenizer.vocab_size,
                config.vocab_size,
                config.min_frequency,
            )
        return tokenizer

    def settings(
        self, tokenizer: Tokenizer, corpus: Corpus, masks: Sequence[Mask], splits: Collection[str]
    ) -> EncodeSettings:
        """Choose the engine, once for all ranges, and gather what they are encoded with."""
        record = read_json(self.work.engine)
        # Kept, so that tasks of an array on unlike machines encode with the same one.
        engine = None if record is None else EngineReport.from_json(record)
        if engine is None:
            samples = train_texts(self._documents(), masks, SAMPLE_BYTES)
            wanted = self.stage.tokenizer.engine
            _, engine = choose_encoder(tokenizer.content, wanted, samples)
            write_json(self.work.engine, engine.to_json())
        pairs = self.stage.pairs
        return EncodeSettings(
            self.folder.tokenizer,
            engine,
            corpus.sha256,
            self.plan.settings,
            tuple(split for split in SPLITS if split in splits),
            self.stage.data.shard_tokens,
            None if pairs.kind == "none" else pairs,
            # Threads of an engine: all workers together get the processors that there are.
            max(1, available_cpus() // min(self.pool.count, len(self.plan.ranges))),
        )

    def encode(
        self, settings: EncodeSettings, cleaned: Sequence[CleanedRange], share: Share = WHOLE
    ) -> None:
        """Encode the ranges of a share that are not finished."""
        firsts = list(accumulate((done.documents for done in cleaned), initial=0))
        numbers = share.numbers(len(self.plan.ranges))
        jobs = [
            EncodeJob(settings, planned, self.work.root, firsts[number], cleaned[number].documents)
            for number in numbers
            if not is_encoded(self.work, planned := self.plan.ranges[number], settings)
        ]
        _log_start(f"encoding {', '.join(settings.splits)} of", len(jobs), len(numbers))
        mark("ranges")
        for _ in self.pool.run(jobs):
            pass
        mark("prepare")

    def commit(
        self, settings: EncodeSettings, targets: Collection[Target]
    ) -> dict[Target, Manifest]:
        """Put the shards of all ranges together."""
        return commit_splits(self.folder.path, self.plan, self.work, settings, targets)

    def _train_bytes(self, number: int) -> int | None:
        """Return how much train text of a range is kept; on the fly, a sample to learn from."""
        if not self.stage.data.on_the_fly:
            return None
        is_trained = self.stage.tokenizer.path is None
        sample_bytes = self.stage.tokenizer.train_bytes if is_trained else SAMPLE_BYTES
        total = sum(planned.size_bytes for planned in self.plan.ranges)
        # Each range gives its share, so that the sample does not depend on who cleans first.
        return max(1, sample_bytes * self.plan.ranges[number].size_bytes // total)

    def _documents(self) -> list[Path]:
        return [self.work.documents(planned) for planned in self.plan.ranges]


def _write_rejections(path: Path, rejections: dict[str, list[Rejection]]) -> None:
    lines = [
        json_text({"source": source} | rejection.to_record())
        for source, found in rejections.items()
        for rejection in found
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _log_start(what: str, missing: int, total: int) -> None:
    if missing < total:
        log.info("%s %d ranges; %d are finished", what, missing, total - missing)
    else:
        log.info("%s %d ranges", what, total)
