import pytest

from distrain.config.data import DataConfig
from distrain.data.document import Document
from distrain.data.preprocess.clean import Cleaner, CleanText, Rejected
from distrain.data.preprocess.split import text_digest


def cleaner(curation=None, **settings):
    source = {"kind": "files", "paths": ["texts"]}
    return Cleaner(
        DataConfig.model_validate({"source": source, "curation": curation or {}, **settings})
    )


def test_a_kept_document_is_normalised_and_has_the_digest_of_its_final_text():
    kept = cleaner().clean(Document("one \r\ntwo\r\n", "a.txt"))
    assert isinstance(kept, CleanText)
    assert (kept.path, kept.text, kept.digest) == ("a.txt", "one\ntwo", text_digest("one\ntwo"))


def test_without_normalisation_the_text_stays_as_it_was_read():
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
