import numpy as np
import pytest
from pydantic import ValidationError

from distrain.config.token_sources import TokenSource
from distrain.data.opened.token_source import open_token_source, stream_digest
from distrain.errors import DataError, PreflightError
from tests.distrain.data.adapters.foreign_files import make_documents, read_back, write_megatron
from tests.distrain.data.made_corpus import make_texts, make_tokenizer, write_split


def section(**settings):
    return TokenSource(kind="tokens", **settings)


def opened(source, split="train", **options):
    return open_token_source(source, split, stage_kind="pretrain", **options)


def test_splits_of_foreign_files_are_ranges_and_the_test_split_is_guarded(tmp_path):
    documents = make_documents(100)
    write_megatron(tmp_path / "a", documents)
    source = section(
        format="megatron", paths=[str(tmp_path)], validation_fraction=0.1, test_fraction=0.05
    )
    assert read_back(opened(source)) == documents[:85]
    assert read_back(opened(source, "validation")) == documents[85:95]
    with pytest.raises(PreflightError, match="opening the test split"):
        opened(source, "test")
    assert read_back(open_token_source(source, "test", stage_kind="evaluate")) == documents[95:]


def test_the_tokenizer_gives_the_end_of_documents_and_the_limit_of_ids(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    ids = [[*tokenizer.encode(text), tokenizer.eos_id] for text in make_texts(20)]
    np.save(tmp_path / "a.npy", np.concatenate(ids).astype(np.uint16))
    source = section(
        format="npy", paths=[str(tmp_path / "a.npy")], tokenizer=str(tmp_path / "tokenizer.json")
    )
    stream = opened(source, ends=tmp_path / "ends")
    assert stream.eos_id == tokenizer.eos_id
    assert read_back(stream) == ids[:18]
    assert list((tmp_path / "ends").iterdir())

    np.save(tmp_path / "a.npy", np.array([tokenizer.vocab_size, 0] * 5, np.uint16))
    with pytest.raises(DataError, match=rf"expected ids in \[0, {tokenizer.vocab_size}\)"):
        opened(source)


def test_prepare_stages_of_other_runs_keep_their_splits(tmp_path):
    for run, source in (("one", "main"), ("one", "web"), ("two", "main")):
        for split in ("train", "validation", "test"):
            texts = [f"{run} {source} {split} {number}" for number in range(4)]
            tokenizer = write_split(tmp_path / run, split, texts, source=source)
    ready = section(format="distrain", paths=[str(tmp_path / "one"), str(tmp_path / "two")])
    for split in ("train", "validation"):
        stream = opened(ready, split)
        texts = [tokenizer.decode(ids[:-1]) for ids in read_back(stream)]
        assert texts == [
            f"{part} {split} {number}"
            for part in ("one main", "one web", "two main")
            for number in range(4)
        ]
        assert stream.eos_id == tokenizer.eos_id
    with pytest.raises(PreflightError, match="opening the test split"):
        opened(ready, "test")
    with pytest.raises(DataError, match="Run the prepare stage first"):
        opened(section(format="distrain", paths=[str(tmp_path / "three")]))


def test_prepare_stages_of_different_tokenizers_do_not_mix(tmp_path):
    write_split(tmp_path / "one", "train", make_texts(3))
    other = make_tokenizer(tmp_path / "other", vocab_size=310)
    paths = [str(tmp_path / "one")]
    tokenizer = str(tmp_path / "other" / "tokenizer.json")
    source = section(format="distrain", paths=paths, tokenizer=tokenizer)
    with pytest.raises(DataError, match=f"expected those of {other.fingerprint[:12]}"):
        opened(source)


def test_the_digest_tells_streams_apart_but_not_their_places(tmp_path):
    def digest(name, documents, **options):
        (tmp_path / name).mkdir()
        write_megatron(tmp_path / name / "a", documents, **options)
        return stream_digest(opened(section(format="megatron", paths=[str(tmp_path / name)])))

    documents = make_documents(100)
    original = digest("original", documents)
    assert digest("copy", documents) == original
    changed = [list(ids) for ids in documents]
    changed[0][0] = 499 - changed[0][0]
    moved = [documents[0] + documents[1], *documents[2:]]
    others = {digest(f"other{n}", ids) for n, ids in enumerate((changed, moved, documents[1:]))}
    assert len(others | {original}) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "npy", "paths": ["a"]}, "format npy needs eos_id, or the tokenizer"),
        ({"format": "mds", "paths": ["a"]}, "'distrain', 'megatron', 'datatrove' or 'npy'"),
        ({"format": "megatron", "paths": []}, "at least 1 item"),
        ({"format": "megatron", "paths": ["a"], "dtype": "float32"}, "'uint8', 'uint16'"),
        ({"format": "megatron", "paths": ["a"], "eos_id": -1}, "greater than or equal to 0"),
        ({"format": "megatron", "paths": ["a"], "test_fraction": 0.5}, "less than 0.5"),
        ({"format": "megatron", "paths": ["a"], "eosid": 1}, "not permitted"),
    ],
)
def test_a_section_that_cannot_work_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        section(**settings)
