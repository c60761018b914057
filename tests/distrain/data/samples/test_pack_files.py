import fcntl
import logging
import multiprocessing
import os
from collections.abc import Callable
from itertools import count
from unittest.mock import patch

import numpy as np
import pytest

from distrain.data.samples import pack_files
from distrain.data.samples.pack_files import ends_digest, ensure_packs, open_pack, write_pack
from distrain.data.samples.packing import plan_best_fit
from distrain.data.shards.digests import BLOCK_BYTES
from distrain.data.shards.reader import ShardedTokens, open_split
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_texts, write_split

T = 64

everyone_is_here: Callable[..., int]


class Numbers:
    """A shard whose tokens count up from 0."""

    def __init__(self, ends):
        self.ends = ends
        self.num_documents = len(ends)
        self.num_tokens = int(ends[-1]) if len(ends) else 0

    def tokens(self, start, stop):
        return np.arange(start, min(stop, self.num_tokens))


def make_ends(seed, documents=300):
    sizes = np.random.default_rng(seed).integers(1, 200, documents)
    return np.cumsum(sizes).astype("<u8")


def make_tokens(shards=4):
    parts = [Numbers(make_ends(seed, documents=0 if seed == 2 else 300)) for seed in range(shards)]
    return ShardedTokens(parts, eos_id=None)


def contents(plan):
    return (
        plan.length,
        plan.window_documents,
        plan.first_piece.tolist(),
        plan.starts.tolist(),
        plan.lengths.tolist(),
    )


@pytest.fixture
def written(tmp_path):
    ends = make_ends(0)
    path = tmp_path / "00000.pack"
    write_pack(path, plan_best_fit(ends, T), ends_digest(ends))
    return path, ends_digest(ends)


@pytest.mark.parametrize("documents", [0, 1, 300])
@pytest.mark.parametrize("verify", [True, False])
def test_a_plan_comes_back_as_it_was_written(tmp_path, documents, verify):
    ends = make_ends(0, documents)
    plan = plan_best_fit(ends, T, 50)
    path = tmp_path / "00000.pack"
    write_pack(path, plan, ends_digest(ends))
    mapped = open_pack(path, ends_digest(ends), T, window_documents=50, verify=verify)
    assert contents(mapped) == contents(plan)
    assert not mapped.starts.flags.writeable
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ({"length": 65}, "for samples of length 64", "one for samples of length 65"),
        ({"window_documents": 9}, "windows of documents: 65536", "for windows of documents: 9;?"),
        ({"digest": "ab" * 16}, "of document ends with the digest [0-9a-f]{32}", "(ab){16}"),
    ],
)
def test_a_plan_of_something_else_is_refused(written, wanted, found, expected):
    path, digest = written
    arguments = {"digest": digest, "length": T} | wanted
    with pytest.raises(DataError, match=rf"00000.pack: found .*{found}; .*{expected}.*Remove the"):
        open_pack(path, **arguments)


def test_a_plan_of_another_version_is_refused(written, monkeypatch):
    path, digest = written
    monkeypatch.setattr(pack_files, "PACK_VERSION", 2)
    with pytest.raises(DataError, match="of version 1; expected one of version 2"):
        open_pack(path, digest, T)


def test_a_file_that_is_no_plan_is_refused(written):
    path, digest = written
    path.write_bytes(b"\x93NUMPY" + bytes(300))
    with pytest.raises(DataError, match=r"begins with b'\\x93NUMPY.*expected b'dst.pack'"):
        open_pack(path, digest, T)


def test_a_file_cut_short_anywhere_is_refused(written):
    path, digest = written
    whole = path.read_bytes()
    for size in (0, 1, 127, 128, 129, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"found .* bytes.*Remove the file"):
            open_pack(path, digest, T)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DataError, match="bytes after the header"):
        open_pack(path, digest, T)


def test_any_changed_byte_is_found_when_all_is_read(written):
    path, digest = written
    whole = path.read_bytes()
    used = [*range(pack_files.HEADER.size), *range(pack_files.HEADER_BYTES, len(whole), 37)]
    for place in used:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError):
            open_pack(path, digest, T, verify=True)


def test_a_digest_of_another_kind_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="'abcd'; expected 32 hexadecimal digits"):
        write_pack(tmp_path / "00000.pack", plan_best_fit(make_ends(0), T), "abcd")


def test_the_digest_is_that_of_the_index_in_the_manifest(tmp_path):
    write_split(tmp_path, "train", make_texts(20))
    split = open_split(tmp_path, "train", stage_kind="pretrain")
    assert split.manifest.block_bytes == BLOCK_BYTES
    for record, shard in zip(split.manifest.shards, split.shards, strict=True):
        assert ends_digest(shard.ends) == split.manifest.files[f"{record.name}.idx"].digest


def test_missing_plans_are_made_and_found_ones_are_mapped(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tokens = make_tokens()
    made = ensure_packs(tokens, tmp_path / "packs", T, window_documents=100)
    expected = [plan_best_fit(shard.ends, T, 100) for shard in tokens.shards]
    assert [contents(plan) for plan in made] == [contents(plan) for plan in expected]
    (line,) = caplog.messages
    assert "samples of 64 tokens: 4 of 4 shards" in line
    assert f"300 documents in {made[-1].num_bins} samples, {100 * made[-1].padding():.2f} %" in line

    files = sorted((tmp_path / "packs").glob("*.pack"))
    before = [file.stat() for file in files]
    files[1].unlink()
    again = ensure_packs(tokens, tmp_path / "packs", T, window_documents=100)
    assert [contents(plan) for plan in again] == [contents(plan) for plan in expected]
    kept = [
        file.stat().st_mtime_ns == old.st_mtime_ns for file, old in zip(files, before, strict=True)
    ]
    assert kept == [True, False, True, True]
    assert "1 of 1 shards" in caplog.messages[-1]


def test_a_found_plan_of_other_shards_is_refused(tmp_path):
    ensure_packs(make_tokens(2), tmp_path, T)
    tokens = ShardedTokens([Numbers(make_ends(seed)) for seed in (0, 7)], eos_id=None)
    with pytest.raises(DataError, match=r"00001.pack: found a packing plan of document ends"):
        ensure_packs(tokens, tmp_path, T)


def test_known_digests_spare_reading_the_ends(tmp_path):
    tokens = make_tokens()
    digests = [ends_digest(shard.ends) for shard in tokens.shards]
    expected = ensure_packs(tokens, tmp_path, T)
    for shard in tokens.shards:
        shard.ends = None
    mapped = ensure_packs(tokens, tmp_path, T, digests=digests, verify=True)
    assert [contents(plan) for plan in mapped] == [contents(plan) for plan in expected]


def test_no_shards_have_no_plans(tmp_path):
    assert ensure_packs(ShardedTokens([], eos_id=None), tmp_path / "packs", T) == []
    assert not (tmp_path / "packs").exists()


def test_a_crash_leaves_whole_files_only_and_the_next_start_goes_on(tmp_path, monkeypatch):
    tokens = make_tokens()
    fsync, calls = os.fsync, count()

    def fail_at_the_third_file(descriptor):
        # Two calls a file: its content, and the entries of its folder.
        if next(calls) == 4:
            raise OSError("no space left")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_at_the_third_file)
    with pytest.raises(OSError, match="no space left"):
        ensure_packs(tokens, tmp_path, T)
    monkeypatch.undo()
    assert [file.name for file in sorted(tmp_path.glob("*.pack"))] == ["00000.pack", "00001.pack"]
    assert len(ensure_packs(tokens, tmp_path, T)) == 4
    assert not list(tmp_path.glob("*.unfinished"))


def test_whoever_waits_too_long_says_for_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_files, "PATIENCE_S", 0.2)
    with (tmp_path / pack_files.LOCK).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"another process that has been planning.*start again"):
            ensure_packs(make_tokens(), tmp_path, T)


def meet_at(barrier):
    global everyone_is_here  # noqa: PLW0603  (a pool hands it to its processes in no other way)
    everyone_is_here = barrier.wait


def plan_together(folder):
    tokens = make_tokens(12)
    with patch.object(pack_files, "plan_best_fit", wraps=plan_best_fit) as planning:
        everyone_is_here(timeout=60)
        plans = ensure_packs(tokens, folder, T)
    return planning.call_count, [contents(plan) for plan in plans]


def test_several_processes_plan_each_shard_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(3, meet_at, (context.Barrier(3),)) as pool:
        found = pool.map(plan_together, [tmp_path] * 3, chunksize=1)
    assert sum(planned for planned, _ in found) == 12
    expected = [contents(plan_best_fit(shard.ends, T)) for shard in make_tokens(12).shards]
    assert all(plans == expected for _, plans in found)
