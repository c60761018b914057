"""The peer of ``benchmarks.data.curation``: datatrove's filters with limits that nothing fails."""

import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import import_module
from typing import Any

ARGUMENTS: dict[str, dict[str, object]] = {
    "GopherQualityFilter": {
        "min_doc_words": 0,
        "max_doc_words": 10**9,
        "min_avg_word_length": 0,
        "max_avg_word_length": 10**9,
        "max_symbol_word_ratio": 10**9,
        "max_bullet_lines_ratio": 2,
        "max_ellipsis_lines_ratio": 2,
        "max_non_alpha_words_ratio": -1,
        "min_stop_words": -1,
    },
    "GopherRepetitionFilter": {
        "dup_line_frac": 10,
        "dup_para_frac": 10,
        "dup_line_char_frac": 10,
        "dup_para_char_frac": 10,
        "top_n_grams": tuple((n, 10) for n in (2, 3, 4)),
        "dup_n_grams": tuple((n, 10) for n in range(5, 11)),
    },
    "C4QualityFilter": {
        "filter_no_terminal_punct": False,
        "min_num_sentences": 0,  # -1 would leave out the count of sentences
        "min_words_per_line": 0,
        "filter_lorem_ipsum": False,
        "filter_curly_bracket": False,
    },
    "FineWebQualityFilter": {
        "line_punct_thr": -1,
        "short_line_thr": 2,
        "char_duplicates_ratio": 2,
        "new_line_ratio": 10**9,
    },
}
TOGETHER = ("GopherQualityFilter", "GopherRepetitionFilter", "C4QualityFilter")


@cache
def _make(name: str) -> Any:  # noqa: ANN401  (datatrove has no annotations we could read)
    return getattr(import_module("datatrove.pipeline.filters"), name)(**ARGUMENTS[name])


def _run(names: Sequence[str], with_sketch: bool, texts: Sequence[str]) -> None:
    document = import_module("datatrove.data").Document
    filters = [_make(name) for name in names]
    for text in texts:
        found = document(text=text, id="")
        for judge in filters:
            if judge.filter(found) is not True:
                raise ValueError(judge.name)
        if with_sketch and (shingles := _sketcher().get_shingles(found.text)).size:
            _sketcher().get_signature(shingles)


@cache
def _sketcher() -> Any:  # noqa: ANN401
    minhash = import_module("datatrove.pipeline.dedup.minhash")
    hashing = import_module("datatrove.utils.hashing")
    # Its default hash hands strings to xxhash, which takes bytes only since version 4.
    config = minhash.MinhashConfig(hash_config=hashing.HashConfig(hash_fc="sha1"))
    return minhash.MinhashDedupSignature(tempfile.gettempdir(), config=config)


def _replace_pii(texts: Sequence[str]) -> None:
    formatter = import_module("datatrove.pipeline.formatters").PIIFormatter()
    for text in texts:
        formatter.format(text)


PEER_BODIES: dict[str, Callable[[Sequence[str]], None]] = {
    "Gopher quality": partial(_run, ("GopherQualityFilter",), False),
    "Gopher repetition": partial(_run, ("GopherRepetitionFilter",), False),
    "C4": partial(_run, ("C4QualityFilter",), False),
    "FineWeb": partial(_run, ("FineWebQualityFilter",), False),
    "PII": _replace_pii,
    "MinHash sketch": partial(_run, (), True),
    "quality + repetition + C4 + sketch": partial(_run, TOGETHER, True),
}
"""By the names of ``benchmarks.data.curation.BODIES``."""
