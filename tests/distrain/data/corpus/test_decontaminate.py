import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.config.dedup import DecontaminateConfig
from distrain.data.corpus.decontaminate import (
    NgramSet,
    add_counts,
    collect_ngrams,
    count_ngrams,
    find_overlap,
    read_benchmarks,
)
from distrain.data.corpus.minhash import flatten
from distrain.data.curate.words import TextView
from distrain.errors import DataError

NOTHING = np.zeros(0, np.uint64)
GPT3 = DecontaminateConfig()

HASHES = st.integers(0, 2**64 - 1) | st.integers(0, 5)
DOCUMENTS = st.lists(st.lists(HASHES, max_size=8), max_size=8)


def array(values):
    return np.array(values, np.uint64)


def sentence(first, count):
    return " ".join(f"word{number}" for number in range(first, first + count))


def contaminated(documents, held_out, config=GPT3, texts=NOTHING):
    """Run the whole path on strings."""
    ngrams = [TextView(text).shingle_hashes(config.ngram) for text in documents]
    counts = count_ngrams(TextView(text).shingle_hashes(config.ngram) for text in held_out)
    evidence = NgramSet(collect_ngrams([counts], texts, config))
    found = find_overlap(*flatten(ngrams), evidence)
    return found.is_contaminated(config).tolist()


def benchmarks(*paths, **settings):
    config = DecontaminateConfig(texts=tuple(map(str, paths)), **settings)
    return read_benchmarks(config)


@given(DOCUMENTS, st.integers(1, 3))
def test_counts_are_documents_that_hold_an_ngram_however_they_were_cut(documents, size):
    expected = {
        value: sum(value in document for document in documents)
        for document in documents
        for value in document
    }
    parts = [
        count_ngrams(map(array, documents[at : at + size])) for at in range(0, len(documents), size)
    ]
    for counts in (add_counts(parts), count_ngrams(map(array, documents))):
        assert counts.hashes.tolist() == sorted(expected)
        assert counts.documents.tolist() == [expected[value] for value in sorted(expected)]


@given(st.sets(HASHES), st.lists(HASHES))
def test_membership_is_that_of_a_set(members, asked):
    asked += sorted(members)
    found = NgramSet(array(sorted(members))).contains(array(asked))
    assert found.tolist() == [value in members for value in asked]


def test_thirteen_words_in_a_row_are_evidence_and_twelve_are_none():
    held_out = [sentence(0, 40)]
    thirteen = f"{sentence(100, 50)} {sentence(7, 13)} {sentence(200, 50)}"
    twelve = f"{sentence(100, 50)} {sentence(7, 12)} {sentence(200, 50)}"
    assert contaminated([thirteen, twelve, sentence(300, 50)], held_out) == [True, False, False]


def test_case_and_punctuation_hide_nothing():
    held_out = ["It was the best of times, it was the worst of times; it was so."]
    copy = "it was THE BEST of times it was (the worst) of times. It was so!"
    assert contaminated([copy], held_out) == [True]


def test_both_count_and_share_have_to_be_reached():
    held_out = [sentence(0, 25)]
    document = f"{sentence(0, 17)} {sentence(100, 71)}"  # shares 5 of its 76 n-grams
    for count, share, expected in [
        (5, 0.0, True),
        (6, 0.0, False),
        (1, 5 / 76, True),
        (1, 0.066, False),
        (5, 0.06, True),
    ]:
        config = DecontaminateConfig(min_count=count, min_share=share)
        assert contaminated([document], held_out, config) == [expected]


def test_a_document_without_words_shares_nothing():
    config = DecontaminateConfig(min_share=0.0)
    assert contaminated(["", "..."], [sentence(0, 20)], config) == [False, False]


def test_what_many_held_out_documents_say_is_no_evidence():
    licence = sentence(0, 20)
    held_out = [f"{licence} {sentence(100 * number, 20)}" for number in range(1, 12)]
    train = [f"{licence} {sentence(5000, 50)}", f"{sentence(6000, 50)} {sentence(100, 20)}"]
    assert contaminated(train, held_out) == [False, True]
    assert contaminated(train, held_out[:10]) == [True, True]
    assert contaminated(train, held_out, DecontaminateConfig(max_documents=None)) == [True, True]


def test_benchmark_texts_are_evidence_however_many_repeat_a_passage(tmp_path):
    passage = sentence(0, 20)
    file = tmp_path / "questions.txt"
    file.write_text("".join(f"{passage} question {number}\n" for number in range(30)))
    found = benchmarks(file)
    assert (found.texts, found.short) == (30, 0)
    train = [f"{sentence(100, 9)} {passage}", sentence(200, 40)]
    assert contaminated(train, [], texts=found.hashes) == [True, False]


def test_benchmarks_are_read_from_json_lines_and_text_and_normalized(tmp_path):
    texts = [sentence(0, 14), "caf\u00e9 " + sentence(20, 13)]
    plain, json_lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("\ufeff" + texts[0] + "\r\n\n" + texts[1].replace("\u00e9", "e\u0301"))
    json_lines.write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in texts))
    assert np.array_equal(benchmarks(plain).hashes, benchmarks(json_lines).hashes)
    assert benchmarks(plain).hashes.size == 4
    assert benchmarks(plain, json_lines).texts == 4
    assert benchmarks().texts == 0


def test_texts_shorter_than_an_ngram_are_counted_and_refused_if_none_is_longer(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(f"{sentence(0, 5)}\n{sentence(0, 9)}\n")
    assert benchmarks(file, ngram=8).short == 1
    with pytest.raises(DataError) as caught:
        benchmarks(file)
    assert str(caught.value) == (
        "data.dedup.decontaminate.ngram: found 2 benchmark texts of at most 9 words; expected "
        "texts of 13 words and more, the length of an n-gram. "
        "Lower data.dedup.decontaminate.ngram to 9 or less, or give longer texts."
    )


@pytest.mark.parametrize(
    ("name", "content", "where", "message"),
    [
        ("a.txt", None, "", "no readable file (No such file or directory)"),
        ("a.txt", b"caf\xe9", "", "a byte that is no UTF-8 at 3"),
        ("a.txt", b"\n \n", "", "no text"),
        ("a.jsonl", b'{"text": "x"}\n{', ":2", "no JSON (Expecting property name"),
        ("a.jsonl", b'\n{"question": "x", "answer": "y"}', ":2", "(there is: answer, question)"),
        ("a.jsonl", b'["x"]', ":1", "no string in a field 'text' (there is: list)"),
    ],
)
def test_files_that_are_no_benchmark_are_named(tmp_path, name, content, where, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        benchmarks(path)
    assert str(caught.value).startswith(f"{path}{where}: found ")
    assert message in str(caught.value)
