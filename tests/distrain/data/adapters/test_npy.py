import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.adapters.foreign import EndsCache, Reading
from distrain.data.adapters.npy import _find_ends
from distrain.data.adapters.opening import open_files
from distrain.errors import DataError
from tests.distrain.data.adapters.foreign_files import EOS, make_documents, read_back


def open_npy(*paths, eos_id=EOS, vocab_size=None, **reading):
    return open_files(
        "npy",
        [str(path) for path in paths],
        Reading(eos_id=eos_id, **reading),
        vocab_size=vocab_size,
    )


def flat(documents):
    return [token for document in documents for token in document]


def saved(array, **settings):
    stream = io.BytesIO()
    np.save(stream, array, **settings)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int64"])
def test_with_and_without_a_header(tmp_path, dtype):
    documents = make_documents(20, vocab_size=200)
    ids = np.array(flat(documents), dtype)
    np.save(tmp_path / "header.npy", ids)
    ids.tofile(tmp_path / "bare.npy")
    assert read_back(open_npy(tmp_path / "header.npy")) == documents
    assert read_back(open_npy(tmp_path / "bare.npy", dtype=dtype)) == documents


def test_what_follows_the_last_end_is_a_document(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1, 0, 2, 3], np.uint16))
    assert read_back(open_npy(tmp_path / "a.npy")) == [[1, 0], [2, 3]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 7))
def test_ends_are_the_same_in_pieces_of_any_size(ids, chunk):
    expected = [place + 1 for place, token in enumerate(ids) if token == 0]
    if not expected:
        return
    if expected[-1] != len(ids):
        expected.append(len(ids))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distrain.data.adapters.npy.CHUNK", chunk)
        assert _find_ends(Path(), np.array(ids, np.uint16), 0).tolist() == expected


def test_ends_are_found_once_and_kept_away_from_the_files(tmp_path, monkeypatch):
    documents = make_documents(20)
    (tmp_path / "user").mkdir()
    np.save(tmp_path / "user" / "a.npy", np.array(flat(documents), np.uint16))
    ends = EndsCache(tmp_path / "run" / "ends")
    assert read_back(open_npy(tmp_path / "user", ends=ends)) == documents
    with monkeypatch.context() as patch:
        patch.delattr("distrain.data.adapters.npy._find_ends")
        assert read_back(open_npy(tmp_path / "user", ends=ends)) == documents
        with pytest.raises(NameError):
            open_npy(tmp_path / "user", ends=ends, eos_id=7)
    assert [path.name for path in (tmp_path / "user").iterdir()] == ["a.npy"]


IDS = np.array([1, 2, 0, 3, 0], np.uint16)
DAMAGE: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "no dtype": (IDS.tobytes(), {}, "10 bytes without a header, and no dtype; expected the type"),
    "another dtype": (saved(IDS), {"dtype": "uint32"}, "ids of type uint16; expected uint32"),
    "half an id": (
        IDS.tobytes()[:-1],
        {"dtype": "uint16"},
        "9 bytes of ids; expected a multiple of 2",
    ),
    "a cut array": (saved(IDS)[:-4], {}, "6 bytes of ids; expected 10: 5 of type uint16"),
    "a longer array": (saved(IDS) + b"ab", {}, "12 bytes of ids; expected 10"),
    "a cut header": (saved(IDS)[:40], {}, "a damaged NumPy header"),
    "a broken header": (
        saved(IDS).replace(b"descr", b"{{{{{"),
        {},
        "a damaged NumPy header",
    ),
    "another numpy version": (b"\x93NUMPY\x09\x00" + saved(IDS)[8:], {}, "a damaged NumPy header"),
    "floats": (saved(IDS.astype(np.float32)), {}, "values of type <f4; expected little-endian"),
    "big-endian": (saved(IDS.astype(">u2")), {}, r"values of type >u2.*astype"),
    "objects": (saved(IDS.astype(object)), {}, r"values of type \|O"),
    "rows": (saved(IDS[:4].reshape(2, 2)), {}, r"an array of shape \(2, 2\); expected ids in one"),
    "no end of a document": (
        saved(np.array([5, 5, 7], np.uint16)),
        {},
        r"no id 0 among 3.*Set eos_id.*5 \(2 times\), 7 \(1 times\)",
    ),
    "no eos_id": (saved(IDS), {"eos_id": None}, "no eos_id; expected the id that ends each"),
    "nothing": (b"", {"dtype": "uint16"}, "no token in 1 file"),
    "an id too high": (saved(IDS), {"vocab_size": 3}, r"id 3 at token 3; expected ids in \[0, 3\)"),
    "a negative id": (saved(np.array([1, -4, 0], np.int32)), {}, "id -4 at token 1; expected no"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_named(tmp_path, name):
    content, reading, message = DAMAGE[name]
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_npy(tmp_path / "a.npy", **reading)
    assert caught.value.where == str(tmp_path / "a.npy")
