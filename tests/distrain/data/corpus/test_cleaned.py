import numpy as np
import pyarrow.parquet as pq
import pytest

from distrain.data.corpus import cleaned
from distrain.data.corpus.cleaned import (
    CleanDocument,
    CleanedWriter,
    read_batches,
    read_keys,
    read_rows,
)
from distrain.data.curate.split import text_digest

TEXTS = [f"text {n} " + "é" * (n % 7) for n in range(50)]


def document(number, **more):
    text = TEXTS[number]
    split = ("train", "validation", "test")[number % 3]
    path = f"file:{number}"
    return CleanDocument(text, path, split, text_digest(text), len(text.encode()), **more)


def write(path, documents, quality=()):
    with CleanedWriter(path, quality) as writer:
        for found in documents:
            writer.add(found)
        assert writer.close() == path.stat().st_size
    return path


def test_documents_come_back_in_order_with_all_that_is_known_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cleaned, "GROUP_BYTES", 100)
    quality = {"mean_word": 2.5, "edu": 0.125}
    documents = [document(n, label="x" if n % 2 else None, quality=quality) for n in range(50)]
    file = write(tmp_path / "web" / "0.parquet", documents, quality)
    batches = list(read_batches(file))
    assert len(batches) > 5
    assert [batch.first for batch in batches[:2]] == [0, len(batches[0].texts)]
    assert [text for batch in batches for text in batch.texts] == TEXTS
    assert [path for batch in batches for path in batch.paths] == [d.path for d in documents]
    assert [label for batch in batches for label in batch.labels] == [d.label for d in documents]
    assert np.concatenate([batch.columns["edu"] for batch in batches]).tolist() == [0.125] * 50
    keys = read_keys(file)
    assert [digest.tobytes() for digest in keys.digests] == [d.digest for d in documents]
    assert keys.splits.tolist() == [n % 3 for n in range(50)]
    assert keys.text_bytes.tolist() == [d.text_bytes for d in documents]
    assert list(read_rows(file, [49, 3, 4])) == [(f"file:{n}", TEXTS[n]) for n in (3, 4, 49)]


def test_a_range_without_documents_is_a_file_too(tmp_path):
    file = write(tmp_path / "0.parquet", [])
    assert list(read_batches(file)) == []
    keys = read_keys(file)
    assert (keys.digests.shape, keys.splits.shape, keys.text_bytes.shape) == ((0, 16), (0,), (0,))


def test_equal_documents_make_equal_bytes(tmp_path):
    files = [write(tmp_path / name, map(document, range(50))) for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_file_that_is_not_finished_has_no_name(tmp_path):
    class StopError(Exception):
        pass

    def fail():
        with CleanedWriter(tmp_path / "0.parquet") as writer:
            writer.add(document(0))
            assert list(tmp_path.iterdir())
            raise StopError

    with pytest.raises(StopError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_no_utf8_can_be_written(tmp_path):
    text = TEXTS[0]
    odd = CleanDocument(text, "caf\udce9.txt", "train", text_digest(text), len(text))
    file = write(tmp_path / "0.parquet", [odd])
    assert pq.read_table(file).column("path").to_pylist() == ["caf\ufffd.txt"]
