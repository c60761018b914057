from importlib import import_module

import numpy as np
import pytest

from distrain.data.adapters.foreign import Reading
from distrain.data.adapters.opening import open_files
from distrain.errors import DataError
from tests.distrain.data.adapters.foreign_files import make_documents, read_back, write_datatrove


def open_datatrove(*paths, **reading):
    return open_files("datatrove", [str(path) for path in paths], Reading(**reading))


def test_what_datatrove_writes_is_read_in_order(tmp_path):
    peer = import_module("datatrove.pipeline.tokens.tokenizer")
    documents = make_documents(40)
    for size in (2, 4):
        folder = tmp_path / str(size)
        for number in range(2):
            file = peer.TokenizedFile(
                str(folder),
                f"{number:05d}_unshuffled.ds",
                save_final_metadata=True,
                save_loss_metadata=True,
                tokenizer_name_or_path="gpt2",
                token_size=size,
            )
            for document in documents[number * 20 : number * 20 + 20]:
                file.write(document, np.ones(len(document), bool))
            file.close()
        stream = open_datatrove(folder)
        assert read_back(stream) == documents
        assert [shard.path.name[:5] for shard in stream.shards] == ["00000", "00001"]
        assert stream.shards[0].dtype == {2: "uint16", 4: "uint32"}[size]
        assert stream.shards[0].remarks == ("tokenizer gpt2", "its loss mask is left out")


def test_files_globs_and_the_index_name_the_same_shard_once(tmp_path):
    documents = make_documents(5)
    file = write_datatrove(tmp_path / "a.ds", documents, metadata="x|2\n")
    file.with_name("a.ds.metadata").unlink()
    for paths in ([file], [tmp_path / "*"], [f"{file}.index"], [file, tmp_path]):
        assert read_back(open_datatrove(*paths)) == documents


def test_a_rank_without_documents_is_an_empty_shard(tmp_path):
    documents = make_documents(4)
    write_datatrove(tmp_path / "0.ds", [])
    write_datatrove(tmp_path / "1.ds", documents)
    write_datatrove(tmp_path / "2.ds", [])
    stream = open_datatrove(tmp_path)
    assert len(stream.shards) == 3
    assert read_back(stream) == documents
    assert stream.tokens(0, 10**6).tolist() == [token for ids in documents for token in ids]
    with pytest.raises(DataError, match="no token in 1 file; expected at least one document"):
        open_datatrove(tmp_path / "0.ds")


def test_empty_documents_are_left_out_and_counted(tmp_path):
    stream = open_datatrove(write_datatrove(tmp_path / "a.ds", [[], [5, 0], [], [6, 7, 0]]))
    assert read_back(stream) == [[5, 0], [6, 7, 0]]
    assert stream.shards[0].remarks == ("2 empty documents left out",)


def test_four_byte_ids_may_be_read_as_signed(tmp_path):
    file = write_datatrove(tmp_path / "a.ds", make_documents(5), dtype="<i4")
    assert open_datatrove(file, dtype="int32").shards[0].dtype == "int32"
    with pytest.raises(DataError, match="ids of type uint32; expected uint16"):
        open_datatrove(file, dtype="uint16")


def edit(name, change):
    def harm(folder):
        file = folder / name
        file.write_bytes(change(file.read_bytes()))

    return harm


def ends_of(*values):
    return lambda content: np.array(values, "<u8").tobytes()


# Documents of 3, 2 and 4 ids of two bytes.
DAMAGE = {
    "cut ids": (
        edit("a.ds", lambda content: content[:-2]),
        r"a\.ds: found 16 bytes; expected 18 bytes: the index counts 9 ids, the metadata says 2",
    ),
    "a cut index": (
        edit("a.ds.index", lambda content: content[:-3]),
        r"index: found 21 bytes; expected a multiple of 8",
    ),
    "an index of fewer documents": (
        edit("a.ds.index", lambda content: content[:-8]),
        "18 bytes; expected 10 bytes: the index counts 5 ids",
    ),
    "ends that fall": (
        edit("a.ds.index", ends_of(5, 3, 9)),
        "document 1 ending at token 3, before 5; expected ends that never fall",
    ),
    "no index": (lambda folder: (folder / "a.ds.index").unlink(), "format npy, with dtype"),
    "metadata of another size": (
        edit("a.ds.metadata", lambda content: b"gpt2|4\n9\n9 T"),
        "18 bytes; expected 36 bytes: the index counts 9 ids, the metadata says 4 bytes each",
    ),
    "metadata of other tokens": (
        edit("a.ds.metadata", lambda content: b"gpt2|2\n8\n8 T"),
        "metadata: found 8 tokens; expected 9, as the index counts",
    ),
    "metadata of another form": (
        edit("a.ds.metadata", lambda content: b"gpt2\n9\n"),
        r"the lines \['gpt2', '9'\]; expected NAME\|2 or NAME\|4",
    ),
    "metadata without a count": (
        edit("a.ds.metadata", lambda content: b"gpt2|2\n"),
        r"the lines \['gpt2\|2'\]",
    ),
    "empty metadata": (edit("a.ds.metadata", lambda content: b""), r"the lines \[\]"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_named(tmp_path, name):
    harm, message = DAMAGE[name]
    file = write_datatrove(
        tmp_path / "a.ds", [[1, 2, 0], [3, 0], [4, 5, 6, 0]], metadata="gpt2|2\n9\n9 T"
    )
    assert open_datatrove(file).num_tokens == 9
    harm(tmp_path)
    with pytest.raises(DataError, match=message):
        open_datatrove(file)


def test_ids_of_neither_size_are_refused_without_metadata(tmp_path):
    file = write_datatrove(tmp_path / "a.ds", [[1, 2, 0]])
    file.write_bytes(b"12345")
    with pytest.raises(DataError, match="5 bytes; expected 6 bytes or 12 bytes"):
        open_datatrove(file)
