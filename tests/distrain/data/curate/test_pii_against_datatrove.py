"""What we replace and what datatrove replaces, on the same documents, differ as listed alone."""

import re
from pathlib import Path

import pytest

from distrain.config.curation import PiiConfig
from distrain.data.curate import pii
from tests.distrain.data.real_texts import made_pages, real_texts

formatters = pytest.importorskip("datatrove.pipeline.formatters.pii")


def theirs(text):
    formatter = formatters.PIIFormatter()
    found = []
    for replacer in (formatter.emails_replacer, formatter.ip_replacer):
        matches = [match[0] for match in replacer.regex.finditer(text)]
        found += [match for match in matches if not replacer.validator or replacer.validator(match)]
        text = replacer.regex.sub("-", text)
    return found


def ours(text, patch):
    found = []

    def record(match, _):
        found.append(match)
        return "-"

    patch.setattr(pii, "choose", record)
    pii.replace_pii(text, PiiConfig())
    return found


# Name -> an example, and what is true of a match that only one of the two found for this reason.
DIFFERENCES = {
    "pii: dotted numbers": (
        "in v23.4.5.6 and 23.4.5.6.7",
        lambda match, text: re.search(rf"[\w.]{re.escape(match)}|{re.escape(match)}\.?\w", text),
    ),
    "pii: reserved domains": (
        "to jane@example.com",
        lambda match, _: f".{match.split('@')[-1].lower()}".endswith(pii.EMAIL_DOMAINS),
    ),
    "pii: top-level domains": (
        "a@b.1 or a@[10.0.0.1]",
        lambda match, _: "@" in match and not re.search(r"\.[A-Za-z]{2,}$", match),
    ),
    "pii: long names": (
        f"{'a' * 60}-{'b' * 60}@mail.net",
        lambda match, text: re.search(rf"[\w-]{{4,}}{re.escape(match)}", text) or len(match) > 64,
    ),
    "pii: IPv6": (
        "host 2a00:1450:4001:81b::200e",
        lambda match, _: match.startswith(("2", "3")) and ":" in match,
    ),
}


def unexplained(text, patch, kinds):
    mine, peer = ours(text, patch), theirs(text)
    different = [match for match in mine if match not in peer]
    different += [match for match in peer if match not in mine]
    return [
        match for match in different if not any(DIFFERENCES[kind][1](match, text) for kind in kinds)
    ]


@pytest.mark.data
def test_on_real_documents_each_difference_has_a_listed_reason(monkeypatch):
    texts = real_texts()
    texts += made_pages(texts, 100)
    found = 0
    for text in texts:
        assert unexplained(text, monkeypatch, DIFFERENCES) == [], text
        found += len(theirs(text))
    assert found > 100


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_each_listed_difference_is_one(kind, monkeypatch):
    text = DIFFERENCES[kind][0]
    assert unexplained(text, monkeypatch, [other for other in DIFFERENCES if other != kind])
    assert not unexplained(text, monkeypatch, [kind])


def test_the_documentation_lists_these_differences_and_no_others():
    page = (Path(__file__).parents[4] / "docs" / "curation.md").read_text()
    assert re.findall(r"^\| (pii: [^|]+?) \|", page, re.MULTILINE) == list(DIFFERENCES)
