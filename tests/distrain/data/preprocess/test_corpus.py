import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.data import DataConfig
from distrain.data.preprocess.corpus import Census, read_corpus, take_census
from distrain.data.preprocess.split import split_of, text_digest
from distrain.errors import DataError


def config(folder, **settings):
    return DataConfig.model_validate(
        {
            "source": {"kind": "files", "paths": [str(folder)]},
            "validation_fraction": 0.2,
            "test_fraction": 0.2,
            **settings,
        }
    )


def write(folder, texts, name="texts"):
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


TEXTS = [f"document number {n}" for n in range(60)]


def test_each_document_is_kept_once_or_dropped_for_a_reason(tmp_path):
    odd = [
        "document number 3  \r\n",
        "\ufeffdocument number 4",
        "",
        " \n",
        "tiny",
        "nul\0",
        "\ud800 half a pair",
    ]
    write(tmp_path, TEXTS + odd)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    census = Census()
    kept = list(read_corpus(config(tmp_path, min_characters=10), census))
    assert sorted(document.text for document in kept) == sorted(TEXTS)
    assert census.dropped == {
        "duplicate": 2,
        "empty": 2,
        "too_short": 1,
        "nul_bytes": 1,
        "not_utf8": 2,
    }
    assert census.documents == Counter(document.split for document in kept)
    assert census.text_bytes.total() == sum(len(text) for text in TEXTS)
    assert any("image.png (not_utf8)" in broken for broken in census.broken)


def test_broken_files_within_the_budget_are_counted_and_beyond_it_refused(tmp_path):
    write(tmp_path, TEXTS)
    for number in range(4):
        (tmp_path / f"x{number}.bin").write_bytes(b"\0")
    assert take_census(config(tmp_path, skip_budget=4)).dropped == {"nul_bytes": 4}
    with pytest.raises(DataError) as caught:
        take_census(config(tmp_path, skip_budget=3))
    assert caught.value.found.startswith("more than 3 broken files, the first: ")
    assert "x0.bin (nul_bytes)" in caught.value.found


def test_duplicates_and_short_texts_cost_no_budget(tmp_path):
    write(tmp_path, [*TEXTS, *TEXTS, "", "x"])
    assert take_census(config(tmp_path, skip_budget=0)).dropped["duplicate"] == len(TEXTS)


def test_a_growing_corpus_moves_no_document(tmp_path):
    write(tmp_path, TEXTS[:40], "b")
    before = {document.text: document.split for document in read_corpus(config(tmp_path))}
    write(tmp_path, TEXTS[40:], "a")
    after = {document.text: document.split for document in read_corpus(config(tmp_path))}
    assert before.items() < after.items()
    assert set(after.values()) == {"train", "validation", "test"}


@settings(deadline=None)
@given(st.text(min_size=1))
def test_larger_fractions_only_take_from_train(text):
    text = text.encode(errors="ignore").decode()
    digest = text_digest(text)
    small, large = split_of(digest, 0.1, 0.1), split_of(digest, 0.3, 0.1)
    assert small == large or (small, large) == ("train", "validation")


def test_splits_have_the_sizes_that_were_asked_for():
    counts = Counter(split_of(text_digest(str(n)), 0.05, 0.02) for n in range(20_000))
    assert counts["validation"] == pytest.approx(1000, abs=150)
    assert counts["test"] == pytest.approx(400, abs=100)


def test_an_empty_corpus_says_what_was_dropped(tmp_path):
    write(tmp_path, ["", "a"])
    with pytest.raises(DataError, match=r"an empty corpus \(dropped: 1 empty, 1 too_short\)"):
        take_census(config(tmp_path, min_characters=5))


def test_an_empty_split_is_refused_with_a_remedy(tmp_path):
    write(tmp_path, TEXTS[:3])
    for changes, split in [
        ({"validation_fraction": 1e-9}, "validation"),
        ({"validation_fraction": 0.49, "test_fraction": 1e-9}, "test"),
    ]:
        with pytest.raises(DataError) as caught:
            take_census(config(tmp_path, **changes))
        assert f"no document in the {split} split (3 documents in all)" in caught.value.found
        assert f"raise data.{split}_fraction" in caught.value.remedy


def test_the_census_knows_one_corpus_from_another(tmp_path):
    write(tmp_path, TEXTS)
    first = take_census(config(tmp_path))
    assert take_census(config(tmp_path)).digest("train") == first.digest("train")
    write(tmp_path, [*TEXTS, "one more", "and another", "and so on", "and on"], "more")
    digests = {split: take_census(config(tmp_path)).digest(split) for split in first.documents}
    assert any(digests[split] != first.digest(split) for split in digests)
