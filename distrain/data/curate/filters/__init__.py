"""Quality filters: one file each. A new one is a file here, a section in the schema, and a line.

A filter takes a text and its own section. It returns ``None`` to keep the text, another
``TextView`` to keep that instead, or, as a string, the setting that the text fails.
"""

from collections.abc import Callable
from typing import Any

from distrain.data.curate.filters.c4 import c4
from distrain.data.curate.filters.fineweb import fineweb
from distrain.data.curate.filters.gopher_quality import gopher_quality
from distrain.data.curate.filters.gopher_repetition import gopher_repetition
from distrain.data.curate.filters.language import language
from distrain.data.curate.words import TextView

Verdict = TextView | str | None
Filter = Callable[[TextView, Any], Verdict]

FILTERS: dict[str, Filter] = {
    "language": language,
    "gopher_quality": gopher_quality,
    "gopher_repetition": gopher_repetition,
    "c4": c4,
    "fineweb": fineweb,
}
"""By the name of their section in ``data.curation.filters``, in the order of application.

Only ``c4`` changes a text, so the order of those before it decides which reason is counted for a
document, and not whether it is kept: language first, then what costs least.
"""
