"""The figures of a prepare stage: what ``result.json`` says, and the report draws."""

import logging
from collections.abc import Mapping
from typing import Any

from distrain.config.data import SPLITS
from distrain.data.corpus.commit import Target
from distrain.data.corpus.duplicates import Corpus
from distrain.data.shards.manifest import Manifest

log = logging.getLogger(__name__)


def figures(corpus: Corpus, manifests: Mapping[Target, Manifest]) -> dict[str, Any]:
    """Return the figures; tokens of a split that is made on the fly are ``None``."""
    counts = corpus.counts
    splits = {
        split: {
            "documents": counts.kept[split],
            "tokens": _tokens(split, manifests),
            "bytes": counts.text_bytes[split],
        }
        for split in SPLITS
    }
    for split, values in splits.items():
        log.info(
            "%s: %d documents, %s",
            split,
            values["documents"],
            "to be tokenized when they are read"
            if values["tokens"] is None
            else f"{values['tokens']} tokens",
        )
    tokens = sum(manifest.tokens for manifest in manifests.values())
    text_bytes = sum(manifest.text_bytes for manifest in manifests.values())
    with_pairs = {split for (split, _), found in manifests.items() if found.pairs is not None}
    return {
        "documents": counts.kept.total(),
        "read": counts.read,
        "dropped": counts.dropped,
        "sources": {
            source: _figures_of_source(source, corpus, manifests) for source in corpus.sources
        },
        "splits": splits,
        "tokens": tokens,
        "bytes": counts.text_bytes.total(),
        "tokens_per_byte": round(tokens / text_bytes, 4),
        "pairs": {
            split: sum(found.pairs or 0 for (of, _), found in manifests.items() if of == split)
            for split in SPLITS
            if split in with_pairs
        },
    }


def _tokens(split: str, manifests: Mapping[Target, Manifest]) -> int | None:
    found = [manifest.tokens for (of, _), manifest in manifests.items() if of == split]
    return sum(found) if found else None


def _figures_of_source(
    source: str, corpus: Corpus, manifests: Mapping[Target, Manifest]
) -> dict[str, Any]:
    record = corpus.sources[source].to_record()
    record["bytes"] = record.pop("text_bytes")
    tokens = {split: manifest.tokens for (split, of), manifest in manifests.items() if of == source}
    return record | {"tokens": tokens} | corpus.findings[source]
