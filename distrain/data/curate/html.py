"""HTML to text: the main content of a page, without navigation, scripts and forms.

Resiliparse does it, a parser and rules in compiled code. Models trained on its text and on that of
slower extractors do equally well on language tasks, and it keeps more of tables and code (Li et al.
2026, arXiv 2602.19548).
"""

import functools
import importlib
import re
from collections.abc import Callable
from itertools import accumulate

from distrain.errors import DataError

MAX_DEPTH = 2000
"""A deeper page is taken whole: to find its main content takes time quadratic in the depth."""

# Elements that need no end tag say nothing of the depth.
_TAGS = re.compile(
    r"<(/?)(?!(?:area|base|br|col|dd|dt|embed|hr|img|input|li|link|meta|option|p|source|t[dhr]|wbr)\b)"
    r"[a-z]",
    re.IGNORECASE,
)


def html_to_text(html: str) -> str:
    """Return the text of the main content; empty if there is none.

    Raises:
        DataError: The library that parses HTML is not installed.
    """
    return _extractor()(
        html, main_content=not _is_deep(html), alt_texts=False, links=False, comments=False
    )


def _is_deep(html: str) -> bool:
    # True of most pages, which then cost no regular expression.
    if html.count("<") <= MAX_DEPTH:
        return False
    depths = accumulate(-1 if slash else 1 for slash in _TAGS.findall(html))
    return max(depths, default=0) > MAX_DEPTH


@functools.cache
def _extractor() -> Callable[..., str]:
    try:
        library = importlib.import_module("resiliparse.extract.html2text")
    except ImportError as error:
        raise DataError(
            "data.curation.html",
            "no module resiliparse",
            "the library that parses HTML, resiliparse",
            "Install it: pip install 'distrain[html]'.",
        ) from error
    extract: Callable[..., str] = library.extract_plain_text
    return extract
