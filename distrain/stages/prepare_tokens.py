"""What ``prepare`` does with sources that are tokens already: it looks, compares and counts."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distrain.config.data import SPLITS, DataConfig
from distrain.config.pretrained.resolve import is_gguf, resolve_pretrained
from distrain.config.recipe import PrepareStage
from distrain.config.token_sources import TokenSource
from distrain.data.adapters.opening import bad_id_error, find_bad_id
from distrain.data.opened.ready import counts_file
from distrain.data.opened.token_source import (
    Measured,
    measure,
    open_token_source,
    tokenizer_file,
)
from distrain.data.tokenizer.huggingface import copy_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.data.workers import WorkerPool, worker_count
from distrain.errors import DataError
from distrain.fault.parent import die_with_parent
from distrain.runs.durable import whole_file
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.records import write_json

JOB_TOKENS = 1 << 28
"""Counted in one go by one process: about a second."""
CHUNK_TOKENS = 1 << 22

log = logging.getLogger(__name__)


def look_at_sources(stage: PrepareStage, folder: StageFolder) -> dict[str, Measured]:
    """Open every source of ready tokens, and compare it with the tokenizer if that is known yet.

    Raises:
        DataError: Files are missing, damaged, or were made by another tokenizer.
    """
    looked = {}
    for name, source in stage.data.token_sources.items():
        log.info("looking at %s, ready tokens", name)
        looked[name] = measure(source, ends=folder.ready_index / name)
    if stage.tokenizer.path is not None and looked:
        path = Path(str(with_tokenizer_files(stage, folder).tokenizer.path))
        check_fits(stage, looked, Tokenizer.load(path))
    return looked


def adopt_tokenizer(stage: PrepareStage, folder: StageFolder) -> None:
    """Take the tokenizer that the recipe names, or the first source that brings one.

    Raises:
        DataError: It is not there.
    """
    if stage.tokenizer.path is not None:
        named = with_tokenizer_files(stage, folder).tokenizer.path
        copy_tokenizer(Path(str(named)), folder.path)
        return
    name, source = next(
        (name, source)
        for name, source in stage.data.token_sources.items()
        if source.knows_tokenizer
    )
    copy_tokenizer(tokenizer_file(source, folder.ready_index / name), folder.path)


def with_tokenizer_files(stage: PrepareStage, folder: StageFolder) -> PrepareStage:
    """Return the stage with a tokenizer that lies in files; one of a GGUF file is converted."""
    written = stage.tokenizer.path
    if written is None:
        return stage
    path = resolve_pretrained(written)
    if is_gguf(path):
        from distrain.models.gguf.convert import pretrained_folder  # torch, else not needed here

        path = pretrained_folder(written, RunFolder(folder.path.parent).models)
    tokenizer = stage.tokenizer.model_copy(update={"path": str(path)})
    return stage.model_copy(update={"tokenizer": tokenizer})


def include_tokens(
    stage: PrepareStage,
    folder: StageFolder,
    looked: Mapping[str, Measured],
    tokenizer: Tokenizer,
    result: dict[str, Any],
) -> dict[str, Any]:
    """Write down what the later stages must find again.

    Args:
        stage: The stage.
        folder: Where it writes.
        looked: What ``look_at_sources`` returned.
        tokenizer: Of the stage.
        result: The figures of the sources of text; empty if there are none.

    Returns:
        The figures with those of ready tokens.

    Raises:
        DataError: Another tokenizer made some of the tokens.
    """
    check_fits(stage, looked, tokenizer)
    count_ids(stage.data, folder, looked, tokenizer.vocab_size)
    write_json(folder.ready, {name: asdict(measured) for name, measured in looked.items()})
    ready = {
        name: {
            "kind": "tokens",
            "format": stage.data.token_sources[name].format,
            "kept": dict(measured.documents),
            "tokens": dict(measured.tokens),
            "bytes": dict(measured.text_bytes),
            "tokenizer": measured.tokenizer,
        }
        for name, measured in looked.items()
    }
    return _add_figures(result, ready)


def check_fits(stage: PrepareStage, looked: Mapping[str, Measured], tokenizer: Tokenizer) -> None:
    """Refuse tokens of which it is known that another tokenizer made them.

    Raises:
        DataError: By fingerprint or, where nobody knows that, by the id that ends documents.
    """
    whose = _whose(stage)
    for name, measured in looked.items():
        where = stage.data.setting_of(name)
        remedy = (
            "Set tokenizer.path to the tokenizer.json that made these tokens, or leave the "
            "source out."
        )
        if measured.tokenizer is not None:
            if measured.tokenizer != tokenizer.fingerprint:
                raise DataError(
                    where,
                    f"tokens of the tokenizer {measured.tokenizer[:12]}",
                    f"those of {tokenizer.fingerprint[:12]}, {whose}",
                    remedy,
                )
            continue
        if measured.eos_id not in (None, tokenizer.eos_id):
            raise DataError(
                where,
                f"documents that end with id {measured.eos_id}",
                f"{tokenizer.eos_id}, the end-of-text token of {whose}",
                remedy,
            )
        log.warning(
            "%s: no setting says which tokenizer made these tokens; only the size of the "
            "vocabulary is compared with %s",
            where,
            whose,
        )


def count_ids(
    data: DataConfig, folder: StageFolder, looked: Mapping[str, Measured], vocab_size: int
) -> None:
    """Count how often each id occurs in the train splits that have no manifest, unless it is done.

    Raises:
        DataError: An id is not below ``vocab_size``.
    """
    for name, source in data.token_sources.items():
        index = folder.ready_index / name
        file = counts_file(index, looked[name].digests["train"])
        if source.is_prepared or file.exists():
            continue
        total = looked[name].tokens["train"]
        jobs = [
            CountJob(name, source, index, vocab_size, start, min(start + JOB_TOKENS, total))
            for start in range(0, total, JOB_TOKENS)
        ]
        log.info("counting %d tokens of %s", total, name)
        counts = np.zeros(vocab_size, np.int64)
        with WorkerPool(min(worker_count(data.workers), len(jobs)), die_with_parent) as pool:
            for _, part in pool.run(jobs):
                counts += part
        with whole_file(file, one_writer=True) as stream:
            np.save(stream, counts)


@dataclass(frozen=True)
class CountJob:
    """Counts the ids at [start, stop) of a train split; a job for ``WorkerPool``.

    Args:
        index: Where document ends are kept.
    """

    name: str
    source: TokenSource
    index: Path
    vocab_size: int
    start: int
    stop: int

    @property
    def title(self) -> str:
        """For messages."""
        return f"counting tokens {self.start} to {self.stop} of source {self.name}"

    def run(self) -> NDArray[np.int64]:
        """Return how often each id occurs, shape (vocab_size,)."""
        stream = open_token_source(self.source, "train", stage_kind="prepare", ends=self.index)
        counts = np.zeros(self.vocab_size, np.int64)
        for first in range(self.start, self.stop, CHUNK_TOKENS):
            for number, begin, end in stream.pieces(first, min(first + CHUNK_TOKENS, self.stop)):
                bad = find_bad_id(stream, number, self.vocab_size, begin, end)
                shard = stream.shards[number]
                if bad is not None:
                    path = getattr(shard, "path", None) or Path(self.source.paths[0])
                    raise bad_id_error(path, bad, self.vocab_size)
                counts += np.bincount(shard.tokens(begin, end), minlength=self.vocab_size)
        return counts


def _add_figures(result: dict[str, Any], ready: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    splits = {
        split: dict(result.get("splits", {}).get(split, {"documents": 0, "tokens": 0, "bytes": 0}))
        for split in SPLITS
    }
    for figures in ready.values():
        for split, values in splits.items():
            values["documents"] += figures["kept"][split]
            values["bytes"] += figures["bytes"].get(split, 0)
            if values["tokens"] is not None:  # on the fly, nobody has counted
                values["tokens"] += figures["tokens"][split]
    text_bytes = sum(values["bytes"] for values in splits.values())
    for values in splits.values():
        values["bytes"] = values["bytes"] or None  # nobody knows what ids of other tools were
    added = sum(sum(figures["tokens"].values()) for figures in ready.values())
    return result | {
        "documents": sum(values["documents"] for values in splits.values()),
        "sources": result.get("sources", {}) | ready,
        "splits": splits,
        "tokens": result.get("tokens", 0) + added,
        "bytes": text_bytes or None,
    }


def _whose(stage: PrepareStage) -> str:
    if stage.tokenizer.path is not None:
        return f"tokenizer.path ({stage.tokenizer.path})"
    if stage.data.text_sources:
        return f"the tokenizer trained on {', '.join(stage.data.text_sources)}"
    return "the tokenizer of the first source that has one"
