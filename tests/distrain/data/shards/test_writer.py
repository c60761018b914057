from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.shards.digests import BlockHasher, block_digest, digest_of_blocks, record_of
from distrain.data.shards.inputs import RecordedFile, RecordedRange, read_inputs
from distrain.data.shards.manifest import list_sources
from distrain.data.shards.names import read_names, unpack_names
from distrain.data.shards.reader import open_split
from distrain.data.shards.writer import DataOrigin, ShardWriter
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_texts, make_tokenizer


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return DataOrigin(make_tokenizer(tmp_path_factory.mktemp("tokenizer")), corpus="made")


def content_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write(target, origin, documents, *, cuts=(), shard_tokens=40, **options):
    """Write (ids, name) as batches that begin at ``cuts``; without cuts, one by one."""
    with ShardWriter(
        target, origin, shard_tokens=shard_tokens, block_bytes=16, **options
    ) as writer:
        if not cuts:
            for ids, name in documents:
                writer.add(ids, 2 * len(ids), name)
        bounds = [0, *sorted(cuts), len(documents)] if cuts else []
        for first, stop in pairwise(bounds):
            batch = documents[first:stop]
            lengths = [len(ids) for ids, _ in batch]
            flat = np.array([token for ids, _ in batch for token in ids], np.uint16)
            names = [name for _, name in batch]
            writer.add_batch(flat, np.cumsum(lengths, dtype=np.int64), 2 * len(flat), names)
        return writer.commit()


documents_strategy = st.lists(
    st.tuples(st.lists(st.integers(0, 255), max_size=50), st.text("ab\n/é", max_size=5)),
    min_size=1,
    max_size=30,
)


def test_batches_make_the_same_bytes_as_documents_one_by_one(origin, tmp_path_factory):
    @settings(deadline=None, max_examples=20)
    @given(documents_strategy, st.lists(st.integers(0, 30), min_size=1, max_size=4))
    def check(documents, cuts):
        root = tmp_path_factory.mktemp("batches")
        write(root / "one" / "train" / "main", origin, documents)
        cuts = [min(cut, len(documents)) for cut in cuts]
        write(root / "batch" / "train" / "main", origin, documents, cuts=cuts)
        one, batch = (content_of(root / name / "train" / "main") for name in ("one", "batch"))
        assert one == batch
        split = open_split(root / "one", "train", stage_kind="pretrain")
        eos_id = origin.tokenizer.eos_id
        read = [split.document(n).tolist() for n in range(split.num_documents)]
        assert read == [[*ids, eos_id] for ids, _ in documents]
        names = [read_names(split.path, shard.name) or [] for shard in split.manifest.shards]
        assert [name for part in names for name in part] == [name for _, name in documents]

    check()


def test_parts_extended_make_the_bytes_of_the_whole(origin, tmp_path):
    chosen = np.random.default_rng(0)
    documents = [
        (chosen.integers(0, 256, length).tolist(), f"d{length}")
        for length in chosen.integers(1, 30, 40)
    ]
    whole = write(tmp_path / "whole" / "train" / "main", origin, documents)
    for number, first in enumerate(range(0, 40, 9)):
        part = documents[first : first + 9]
        write(tmp_path / "parts" / str(number) / "train", origin, part, shard_tokens=25)
    with ShardWriter(
        tmp_path / "joined" / "train" / "main", origin, shard_tokens=40, block_bytes=16
    ) as writer:
        for number in range(5):
            writer.extend(tmp_path / "parts" / str(number) / "train")
        assert writer.commit() == whole
    assert content_of(tmp_path / "joined" / "train" / "main") == content_of(
        tmp_path / "whole" / "train" / "main"
    )


def test_adopted_shards_are_the_same_files(origin, tmp_path):
    texts = make_texts(6)
    documents = [(origin.tokenizer.encode(text), text[:6]) for text in texts]
    source = RecordedRange((RecordedFile("a.txt", 10, "v1"),), 0, 3)
    for number in range(2):
        with ShardWriter(
            tmp_path / f"part{number}", origin, shard_tokens=100, block_bytes=16
        ) as writer:
            writer.begin_range(source)
            for ids, name in documents[3 * number : 3 * number + 3]:
                writer.add(ids, 2 * len(ids), name)
            part = writer.commit()
            assert part.documents == 3
    with ShardWriter(
        tmp_path / "all" / "train" / "main", origin, shard_tokens=100, block_bytes=16
    ) as writer:
        writer.adopt(tmp_path / "part0")
        writer.add([1, 2], 4, "between")
        writer.adopt(tmp_path / "part1")
        manifest = writer.commit()
    split = open_split(tmp_path / "all", "train", stage_kind="pretrain")
    assert manifest.documents == split.num_documents == 7
    read = [split.document(n).tolist()[:-1] for n in range(7)]
    assert read == [ids for ids, _ in [*documents[:3], ([1, 2], ""), *documents[3:]]]
    assert (tmp_path / "part0" / "00000.bin").stat().st_nlink == 2
    assert split.token_counts.sum() == split.num_tokens
    assert manifest.text_bytes == sum(2 * len(ids) for ids, _ in documents) + 4
    assert [found.documents for found in read_inputs(split.path)] == [4, 3]


def test_a_part_of_another_tokenizer_is_refused(origin, tmp_path):
    write(tmp_path / "part", origin, [([1], "a")])
    other = DataOrigin(make_tokenizer(tmp_path, vocab_size=310), corpus="made")
    with ShardWriter(tmp_path / "train" / "main", other, shard_tokens=40, block_bytes=16) as writer:
        for take in (writer.adopt, writer.extend):
            with pytest.raises(DataError, match="like those they are put beside"):
                take(tmp_path / "part")


def test_a_damaged_part_is_refused(origin, tmp_path):
    write(tmp_path / "part", origin, [([1, 2, 3], "a")])
    file = tmp_path / "part" / "00000.bin"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    with ShardWriter(
        tmp_path / "train" / "main", origin, shard_tokens=40, block_bytes=16
    ) as writer:
        with pytest.raises(DataError, match="digest differs"):
            writer.extend(tmp_path / "part")
        file.write_bytes(b"short")
        with pytest.raises(DataError, match="5 bytes where 8 were written"):
            writer.adopt(tmp_path / "part")


def test_columns_and_ranges_lie_beside_the_tokens(origin, tmp_path):
    target = tmp_path / "train" / "web"
    files = tuple(RecordedFile(f"{name}.txt", 5, "etag") for name in "ab")
    with ShardWriter(target, origin, shard_tokens=6, block_bytes=16) as writer:
        for first, source in enumerate((RecordedRange(files), RecordedRange(files[:1], 7, 2))):
            writer.begin_range(source)
            quality = np.array([first, 9], np.uint8)
            ids, ends = np.array([5, 6, 7]), np.array([1, 3])
            writer.add_batch(ids, ends, 3, columns={"quality": quality})
        manifest = writer.commit()
    assert manifest.columns == {"quality": "uint8"}
    assert manifest.inputs == 2
    assert [file.documents for file in read_inputs(target)] == [2, 2]
    assert read_inputs(target)[1].first_row == 7
    values = [(target / f"{shard.name}.quality").read_bytes() for shard in manifest.shards]
    assert b"".join(values) == bytes([0, 9, 1, 9])
    assert len(values) == 2
    assert list_sources(tmp_path, "train") == ["web"]
    assert open_split(tmp_path, "train", "web", stage_kind="sft").num_documents == 4
    with pytest.raises(DataError, match="there are: web"):
        open_split(tmp_path, "train", stage_kind="sft")
    with pytest.raises(ValueError, match=r"source '\.\./web'"):
        open_split(tmp_path, "train", "../web", stage_kind="sft")


def test_what_does_not_fit_is_refused(origin, tmp_path):
    ids, ends = np.array([1, 2, 3]), np.array([1, 3])
    with ShardWriter(tmp_path / "train" / "main", origin, shard_tokens=40) as writer:
        for wrong in (np.array([1, 2]), np.array([2, 1, 3]), np.array([4, 3])):
            with pytest.raises(ValueError, match="or overlap"):
                writer.add_batch(ids, wrong, 3)
        with pytest.raises(ValueError, match="1 names for 2 documents"):
            writer.add_batch(ids, ends, 3, ["a"])
        with pytest.raises(ValueError, match="a column named 'idx'"):
            writer.add_batch(ids, ends, 3, columns={"idx": ends})
        with pytest.raises(DataError, match="token id 999 in a document"):
            writer.add_batch(np.array([1, 2, 999]), ends, 3)
        writer.add_batch(ids, ends, 3, ["a", "b"])
        with pytest.raises(ValueError, match="documents with names: False"):
            writer.add_batch(ids, ends, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_any_bytes_but_nul_comes_back(origin, tmp_path):
    names = ["a\nb", "\udcff", "", "é"]
    documents = [([1], name) for name in names]
    write(tmp_path / "main", origin, documents)
    assert unpack_names((tmp_path / "main" / "00000.paths.zst").read_bytes()) == names
    with pytest.raises(ValueError, match="NUL"):
        write(tmp_path / "main", origin, [([1], "a\0b")])


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5), st.integers(1, 64))
def test_digests_of_blocks_do_not_depend_on_the_pieces(content, cuts, block_bytes):
    hasher = BlockHasher(block_bytes)
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    for first, stop in pairwise(bounds):
        hasher.update(content[first:stop])
    blocks = [content[i : i + block_bytes] for i in range(0, len(content), block_bytes)]
    assert hasher.digests() == b"".join(block_digest(block) for block in blocks)
    assert hasher.record() == record_of(content, block_bytes)
    assert hasher.record().digest == digest_of_blocks(hasher.digests())
