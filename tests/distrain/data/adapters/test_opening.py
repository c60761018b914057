import numpy as np
import pytest

from distrain.data.adapters import ADAPTERS
from distrain.data.adapters.foreign import Reading, first_unsorted
from distrain.data.adapters.opening import find_bad_id, open_files
from distrain.errors import DataError
from tests.distrain.data.adapters.foreign_files import (
    make_documents,
    read_back,
    write_datatrove,
    write_megatron,
)


@pytest.mark.parametrize("token_format", ADAPTERS)
def test_a_path_that_names_nothing_is_refused(tmp_path, token_format):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    cases = {
        "missing": "no such file",
        "empty": "a folder of 0 files",
        "notes": "a folder of 1 files, none of which ends with",
        "*.nothing": "no file that matches",
    }
    for path, message in cases.items():
        with pytest.raises(DataError, match=message):
            open_files(token_format, [str(tmp_path / path)], Reading(eos_id=0))
    with pytest.raises(DataError, match="a URL; expected local files"):
        open_files(token_format, ["s3://bucket/a.npy"], Reading(eos_id=0))


@pytest.mark.parametrize("token_format", ["megatron", "datatrove"])
def test_a_file_of_another_kind_is_refused(tmp_path, token_format):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="another kind of file"):
        open_files(token_format, [str(tmp_path / "a.txt")], Reading())


def test_paths_keep_their_order_and_hidden_files_are_left_out(tmp_path):
    first, second, hidden = make_documents(3, seed=1), make_documents(3, seed=2), [[9, 0]]
    write_datatrove(tmp_path / "b.ds", first)
    write_datatrove(tmp_path / "a.ds", second)
    write_datatrove(tmp_path / ".c.ds", hidden)
    named = [str(tmp_path / "b.ds"), str(tmp_path)]
    assert read_back(open_files("datatrove", named, Reading())) == first + second
    assert read_back(open_files("datatrove", named[1:], Reading())) == second + first


def test_an_eos_id_that_ends_no_document_is_refused(tmp_path):
    write_megatron(tmp_path / "a", make_documents(50, eos_id=7))
    with pytest.raises(DataError, match=r"none ends with id 0; most end with 7.*Set eos_id to 7"):
        open_files("megatron", [str(tmp_path)], Reading(eos_id=0))
    assert open_files("megatron", [str(tmp_path)], Reading(eos_id=7)).eos_id == 7
    assert open_files("megatron", [str(tmp_path)], Reading()).eos_id is None


def test_a_wrong_vocabulary_is_found_on_a_sample_and_any_id_in_full(tmp_path):
    ids = np.ones(2_000_000, np.uint16)
    ids[-1] = 0
    ids[1_000_003] = 999
    np.save(tmp_path / "a.npy", ids)
    stream = open_files("npy", [str(tmp_path / "a.npy")], Reading(eos_id=0), vocab_size=500)
    bad = find_bad_id(stream, 0, 500)
    assert bad is not None
    assert (bad.position, bad.token) == (1_000_003, 999)
    assert find_bad_id(stream, 0, 1000) is None
    with pytest.raises(DataError, match=r"id 1 at token 0; expected ids in \[0, 1\)"):
        open_files("npy", [str(tmp_path / "a.npy")], Reading(eos_id=0), vocab_size=1)


def test_unsorted_ends_are_found_across_pieces(monkeypatch):
    monkeypatch.setattr("distrain.data.adapters.foreign.CHUNK", 3)
    assert first_unsorted(np.array([1, 2, 3, 4, 5, 6, 7], np.uint64)) is None
    for place in range(7):
        ends = np.arange(1, 8, dtype=np.uint64)
        ends[place] = ends[place - 1] if place else 0
        assert first_unsorted(ends) == place
