import struct
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.adapters.foreign import EndsCache, Reading
from distrain.data.adapters.opening import open_files
from distrain.errors import DataError
from tests.distrain.data.adapters.foreign_files import make_documents, read_back, write_megatron


def open_megatron(*paths, **reading):
    return open_files("megatron", [str(path) for path in paths], Reading(**reading))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64"])
def test_documents_come_back_in_every_type(tmp_path, dtype):
    documents = make_documents(30, vocab_size=200)
    file = write_megatron(tmp_path / "web_text_document", documents, dtype=dtype)
    for path in (file, file.with_suffix(".idx"), file.with_suffix(""), tmp_path):
        stream = open_megatron(path)
        assert read_back(stream) == documents
        assert stream.shards[0].dtype == dtype


def test_a_document_is_its_run_of_sequences(tmp_path):
    documents = [[1, 2, 3, 0], [4, 0], [5, 6, 7, 8, 9, 0]]
    write_megatron(
        tmp_path / "a", documents, sequences_of=lambda ids: [ids[:2], ids[2:]] if ids[2:] else [ids]
    )
    assert read_back(open_megatron(tmp_path / "a")) == documents


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=5), max_size=4),
        min_size=1,
        max_size=8,
    ).filter(lambda documents: any(part for document in documents for part in document))
)
def test_any_cut_into_sequences_reads_as_the_same_documents(tmp_path_factory, cut):
    prefix = tmp_path_factory.mktemp("megatron") / "x"
    write_megatron(prefix, cut, sequences_of=lambda sequences: sequences)
    whole = [[token for sequence in document for token in sequence] for document in cut]
    stream = open_megatron(prefix)
    assert read_back(stream) == [document for document in whole if document]
    dropped = len(whole) - stream.num_documents
    assert stream.shards[0].remarks == ((f"{dropped} empty documents left out",) if dropped else ())


def test_empty_documents_are_told_also_when_the_ends_were_kept(tmp_path):
    write_megatron(tmp_path / "a", [[1, 0], [], [2, 0], []])
    cache = EndsCache(tmp_path / "kept")
    first, again = (open_megatron(tmp_path / "a", ends=cache).shards[0] for _ in range(2))
    assert list((tmp_path / "kept").iterdir())
    assert first.remarks == again.remarks == ("2 empty documents left out",)


def test_what_datatrove_writes_for_megatron_is_read(tmp_path):
    peer = import_module("datatrove.pipeline.tokens.megatron_tokenizer")
    documents = make_documents(20)
    for size in (2, 4):
        file = peer.MegatronTokenizedFile(str(tmp_path), f"peer{size}", token_size=size)
        for document in documents:
            file.write(document)
        file.close()
        assert read_back(open_megatron(tmp_path / f"peer{size}")) == documents


def pack(at, form, *values):
    def harm(content):
        struct.pack_into(form, content, at, *values)
        return content

    return harm


# Three documents of one sequence each, of 4, 2 and 6 ids: header 34 bytes, lengths at 34, pointers
# at 46, document indices at 70, 102 bytes in all.
DAMAGE = {
    "an index of something else": (pack(0, "<9s", b"TNTIDX\x00\x00\x00"), r"begins with b'TNTIDX"),
    "a cut header": (lambda content: content[:20], "20 bytes; expected a header of 34 bytes"),
    "an empty file": (lambda content: b"", r"begins with b''"),
    "another version": (pack(9, "<Q", 2), "version 2 of the index; expected version 1"),
    "floats": (pack(17, "<B", 7), "values of type code 7"),
    "an unknown type": (pack(17, "<B", 99), "values of type code 99"),
    "a cut index": (lambda content: content[:-8], "94 bytes; expected 102 bytes for 3 sequences"),
    "something after the end": (lambda content: content + b"12345678", "110 bytes; expected 102"),
    "huge counts": (pack(18, "<Q", 2**61), "102 bytes; expected 27670116110564327"),
    "multimodal": (lambda content: content + b"\0\0\0", "a mode for each sequence"),
    "a negative length": (pack(38, "<i", -2), "sequence 1 of -2 tokens"),
    "a pointer elsewhere": (pack(54, "<q", 10), "sequence 1 at byte 10; expected byte 8"),
    "a first pointer not 0": (pack(46, "<q", 2), "sequence 0 at byte 2; expected byte 0"),
    "a longer last sequence": (pack(42, "<i", 7), "24 bytes; expected 26 bytes: 13 ids of type"),
    "a type of another size": (pack(17, "<B", 4), "sequence 1 at byte 8; expected byte 16"),
    "documents from 1": (pack(70, "<q", 1), "document indices that begin with 1; expected 0"),
    "documents that miss a sequence": (pack(94, "<q", 2), "that end with 2; expected 3"),
    "documents that fall": (pack(78, "<q", 3), "document 1 from sequence 3 to 2"),
    "no documents": (
        lambda content: pack(26, "<Q", 0)(content)[:70],
        "document indices that begin with nothing",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_of_the_index_is_named(tmp_path, name):
    harm, message = DAMAGE[name]
    file = write_megatron(tmp_path / "a", [[1, 2, 3, 0], [4, 0], [5, 6, 7, 8, 9, 0]])
    index = file.with_suffix(".idx")
    content = bytearray(index.read_bytes())
    assert len(content) == 102
    index.write_bytes(bytes(harm(content)))
    with pytest.raises(DataError, match=message) as caught:
        open_megatron(file)
    assert str(tmp_path / "a.") in caught.value.where


def test_cut_ids_are_found_by_their_size(tmp_path):
    file = write_megatron(tmp_path / "a", make_documents(5))
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{size - 1} bytes; expected {size} bytes"):
        open_megatron(file)


@pytest.mark.parametrize("missing", [".bin", ".idx"])
def test_half_a_pair_is_refused(tmp_path, missing):
    file = write_megatron(tmp_path / "a", make_documents(5))
    file.with_suffix(missing).unlink()
    other = file.with_suffix({".bin": ".idx", ".idx": ".bin"}[missing])
    with pytest.raises(DataError, match=rf"a\{missing}: found no readable file"):
        open_megatron(other)


def test_a_dtype_that_the_index_contradicts_is_refused(tmp_path):
    write_megatron(tmp_path / "a", make_documents(5))
    with pytest.raises(DataError, match=r"ids of type uint16; expected int32.*set it to uint16"):
        open_megatron(tmp_path / "a", dtype="int32")


def test_kept_ends_are_used_until_the_files_change(tmp_path, monkeypatch):
    documents = make_documents(20)
    file = write_megatron(tmp_path / "a", documents)
    ends = EndsCache(tmp_path / "run" / "ends")
    assert read_back(open_megatron(file, ends=ends)) == documents
    assert len(list((tmp_path / "run" / "ends").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.bin", "a.idx", "run"}

    with monkeypatch.context() as patch:
        patch.delattr("distrain.data.adapters.megatron._document_ends")
        assert read_back(open_megatron(file, ends=ends)) == documents
    longer = make_documents(21)
    write_megatron(tmp_path / "a", longer)
    assert read_back(open_megatron(file, ends=ends)) == longer


@pytest.mark.parametrize("harm", [b"", b"1234567", b"\0" * 160])
def test_a_damaged_cache_is_made_again(tmp_path, harm):
    documents = make_documents(20)
    file = write_megatron(tmp_path / "a", documents)
    ends = EndsCache(tmp_path / "ends")
    open_megatron(file, ends=ends)
    (kept,) = (tmp_path / "ends").iterdir()
    kept.write_bytes(harm)
    assert read_back(open_megatron(file, ends=ends)) == documents
