import pytest

from distrain.config.curation import FiltersConfig
from distrain.config.data import DataConfig
from distrain.data.curate.clean import Cleaner, CleanText, Rejected
from distrain.data.curate.filters import FILTERS
from distrain.data.curate.split import text_digest
from distrain.data.sources.document import Document


def cleaner(curation=None, **settings):
    source = {"kind": "files", "paths": ["texts"]}
    return Cleaner(
        DataConfig.model_validate({"source": source, "curation": curation or {}, **settings})
    )


def test_a_kept_document_is_normalized_and_has_the_digest_of_its_final_text():
    kept = cleaner().clean(Document("one \r\ntwo\r\n", "a.txt"))
    assert isinstance(kept, CleanText)
    assert (kept.path, kept.text, kept.digest) == ("a.txt", "one\ntwo", text_digest("one\ntwo"))


def test_without_normalization_the_text_stays_as_it_was_read():
    kept = cleaner({"normalize": False}).clean(Document("one \r\ntwo\r\n", "a.txt"))
    assert kept.text == "one \r\ntwo\r\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nul\0 in it, and long enough", "nul_bytes"),
        ("", "empty"),
        (" \n\t\n ", "empty"),
        ("123456789", "too_short"),
        ("half of a pair: \ud800", "not_utf8"),
    ],
)
def test_what_is_no_text_or_too_little_of_it_is_rejected_for_its_reason(text, reason):
    rejected = cleaner(min_characters=10).clean(Document(text, "a.txt"))
    assert isinstance(rejected, Rejected)
    assert (rejected.path, rejected.reason) == ("a.txt", reason)


def test_a_text_of_just_enough_characters_is_kept():
    assert cleaner(min_characters=10).clean(Document("1234567890\n", "a.txt")).text == "1234567890"


SENTENCES = "The bridge that we have is old. It will be closed to all. And the towers open in May."
PAGE = (
    f"<html><body><article><p>{SENTENCES}</p><p>Write to jane@mail.net</p></article></body></html>"
)


def test_html_comes_first_then_filters_and_personal_data_last():
    pytest.importorskip("resiliparse")
    curation = {
        "html": True,
        "pii": {},
        "filters": {"c4": {"require_terminal_punctuation": False, "min_words_per_line": 3}},
    }
    kept = cleaner(curation).clean(Document(PAGE, "a.html"))
    assert kept.text.startswith(f"{SENTENCES}\nWrite to ")
    assert "jane" not in kept.text
    assert kept.digest == text_digest(kept.text)


def test_a_filter_that_is_not_named_is_off():
    assert cleaner({"filters": {"c4": {}}}).clean(Document("{ no. sentence", "a")).reason == (
        "c4.min_sentences"
    )
    assert cleaner({"filters": {}}).clean(Document("{ no. sentence", "a")).text == "{ no. sentence"


def test_the_first_filter_in_the_fixed_order_gives_the_reason():
    filters: dict = {"fineweb": {}, "c4": {}, "gopher_repetition": {}, "gopher_quality": {}}
    reasons = []
    while filters:
        rejected = cleaner({"filters": filters}).clean(Document("no\nno\nno\nno", "a.txt"))
        reasons.append(rejected.reason)
        filters.pop(rejected.reason.split(".")[0])
    assert reasons == [
        "gopher_quality.min_words",
        "gopher_repetition.max_duplicate_line_fraction",
        "c4.min_sentences",
        "fineweb.min_terminal_line_fraction",
    ]


def test_what_c4_leaves_must_still_be_long_enough():
    document = Document(f"{SENTENCES}\n" + "no end mark " * 20, "a.txt")
    assert cleaner({"filters": {"c4": {}}}, min_characters=80).clean(document).text == SENTENCES
    rejected = cleaner({"filters": {"c4": {}}}, min_characters=100).clean(document)
    assert (rejected.reason, rejected.text) == ("too_short", SENTENCES)
    rejected = cleaner({"filters": {"c4": {"min_sentences": 0}}}, min_characters=0).clean(
        Document("no end mark", "a.txt")
    )
    assert rejected.reason == "empty"


def test_the_view_is_of_the_final_text():
    kept = cleaner({"pii": {}, "filters": {"c4": {}}}).clean(
        Document(f"{SENTENCES} Or write to jane@mail.net today.\nno end mark", "a.txt")
    )
    assert "".join(kept.view.words) == "".join(kept.text.split())
    assert "jane" not in kept.view.words


def test_every_filter_of_the_schema_has_its_function_and_the_other_way_round():
    assert list(FILTERS) == list(FiltersConfig.model_fields)
