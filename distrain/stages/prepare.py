"""The ``prepare`` stage: raw text -> tokenizer, checked shards of three splits, pairs.

Killed at any moment, it goes on from the parts that are finished: each is written under another
name and renamed into place. ``corpus.json`` says which corpus and settings they belong to.
"""

import hashlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from distrain.config.recipe import PrepareStage
from distrain.config.records import read_json, write_json, write_text
from distrain.config.run_folder import StageFolder
from distrain.data.encode import encode_splits
from distrain.data.huggingface import copy_tokenizer
from distrain.data.manifest import SPLITS, Manifest, check_split
from distrain.data.preprocess.corpus import Census, read_corpus, take_census
from distrain.data.shard_writer import Origin
from distrain.data.tokenizer import Tokenizer, train_tokenizer
from distrain.errors import DataError
from distrain.stages.context import Outcome, StageContext, typed

log = logging.getLogger(__name__)


def run_stage(context: StageContext) -> Outcome:
    """Make what is not there yet; one process."""
    return Outcome(prepare(typed(context.recipe, context.name, PrepareStage), context.folder))


def prepare(stage: PrepareStage, folder: StageFolder) -> dict[str, Any]:
    """Fill ``folder``; returns the figures of ``result.json``."""
    started = time.monotonic()
    census, corpus = collect(stage, folder)
    tokenizer = make_tokenizer(stage, folder)
    manifests = write_splits(stage, folder, Origin(tokenizer, corpus), census)
    tokens = sum(manifest.tokens for manifest in manifests.values())
    text_bytes = sum(manifest.text_bytes for manifest in manifests.values())
    return {
        "documents": census.documents.total(),
        "dropped": dict(sorted(census.dropped.items())),
        "splits": {
            split: {
                "documents": manifest.documents,
                "tokens": manifest.tokens,
                "bytes": manifest.text_bytes,
            }
            for split, manifest in manifests.items()
        },
        "tokens": tokens,
        "bytes": text_bytes,
        "tokens_per_byte": round(tokens / text_bytes, 4),
        "vocab_size": tokenizer.vocab_size,
        "pairs": {
            split: manifest.pairs
            for split, manifest in manifests.items()
            if manifest.pairs is not None
        },
        "seconds": round(time.monotonic() - started, 1),
    }


def collect(stage: PrepareStage, folder: StageFolder) -> tuple[Census, str]:
    """Layers 1 and 2: read and count the corpus; discard parts that were made from another one.

    Returns:
        What was found, and the digest of corpus and settings.
    """
    log.info("reading %s", ", ".join(stage.data.named_sources))
    census = take_census(stage.data)
    log.info(
        "%d documents, %.1f MB of text; dropped: %s",
        census.documents.total(),
        census.text_bytes.total() / 1e6,
        ", ".join(f"{count} {reason}" for reason, count in sorted(census.dropped.items()))
        or "none",
    )
    for broken in census.broken:
        log.warning("left out: %s", broken)
    corpus = _digest(stage, census)
    known = read_json(folder.corpus)
    if known is None or known["sha256"] != corpus:
        folder.tokenizer.unlink(missing_ok=True)
        for split in SPLITS:
            shutil.rmtree(folder.split(split), ignore_errors=True)
        write_json(
            folder.corpus,
            {
                "sha256": corpus,
                "documents": dict(census.documents),
                "bytes": dict(census.text_bytes),
                "dropped": dict(census.dropped),
                "broken": census.broken,
            },
        )
    return census, corpus


def make_tokenizer(stage: PrepareStage, folder: StageFolder) -> Tokenizer:
    """Train on the train split only, or copy the one that the recipe names."""
    config = stage.tokenizer
    if folder.tokenizer.exists():
        return Tokenizer.load(folder.tokenizer)
    if config.path is not None:
        copy_tokenizer(Path(config.path).expanduser(), folder.path)
        return Tokenizer.load(folder.tokenizer)
    log.info("training a byte-level BPE of %d tokens", config.vocab_size)
    texts = (document.text for document in read_corpus(stage.data) if document.split == "train")
    content = train_tokenizer(
        texts, vocab_size=config.vocab_size, min_frequency=config.min_frequency
    )
    write_text(folder.tokenizer, content)
    tokenizer = Tokenizer.load(folder.tokenizer)
    if tokenizer.vocab_size < config.vocab_size:
        log.warning(
            "the vocabulary has %d tokens, not %d: the train text holds no further pair that "
            "occurs %d times",
            tokenizer.vocab_size,
            config.vocab_size,
            config.min_frequency,
        )
    return tokenizer


def write_splits(
    stage: PrepareStage, folder: StageFolder, origin: Origin, census: Census
) -> dict[str, Manifest]:
    """Encode the splits that are not there whole; returns all manifests."""
    manifests = {split: _finished(folder, split, origin) for split in SPLITS}
    missing = [split for split, manifest in manifests.items() if manifest is None]
    if missing:
        log.info("encoding %s", ", ".join(missing))
        manifests |= encode_splits(stage, folder, origin, census, missing)
    whole = {split: manifest for split, manifest in manifests.items() if manifest is not None}
    for split, manifest in whole.items():
        log.info("%s: %d documents, %d tokens", split, manifest.documents, manifest.tokens)
    return whole


def _finished(folder: StageFolder, split: str, origin: Origin) -> Manifest | None:
    if not folder.split(split).exists():
        return None
    try:
        manifest = check_split(folder.path, split)
    except DataError as error:
        log.warning("%s; the split is made again", error)
        return None
    same = (manifest.corpus, manifest.tokenizer) == (origin.corpus, origin.tokenizer.fingerprint)
    return manifest if same else None


def _digest(stage: PrepareStage, census: Census) -> str:
    settings = stage.model_dump(mode="json", exclude={"needs"})
    content = [settings, *(census.digest(split) for split in SPLITS)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
