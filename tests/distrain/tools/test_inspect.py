import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from distrain.data.adapters.foreign import Reading
from distrain.data.shards.digests import record_of
from distrain.data.shards.manifest import MANIFEST, TOKEN_COUNTS, parse_manifest
from distrain.errors import DataError, PreflightError
from distrain.tools.inspect import describe_foreign, describe_place, verify_foreign, verify_place
from distrain.tools.targets import ForeignFiles, find_foreign, find_places, tokenizer_for
from tests.distrain.data.adapters.foreign_files import (
    make_documents,
    write_datatrove,
    write_megatron,
)
from tests.distrain.data.made_corpus import make_texts, make_tokenizer, write_split


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "prepare"
    for split in ("train", "validation", "test"):
        for source in ("main", "web"):
            tokenizer = write_split(folder, split, make_texts(30), source=source)
    return folder, tokenizer


@pytest.fixture
def stage(prepared, tmp_path):
    return shutil.copytree(prepared[0], tmp_path / "prepare")


def describe(folder, tokenizer=None):
    (place,) = find_places(folder)
    return describe_place(place, tokenizer, place.read_manifest())


def problems(folder):
    return [
        (Path(error.where).name, error.found)
        for place in find_places(folder)
        for error in verify_place(place).damaged
    ]


def rewrite_manifest(folder, **changes):
    file = folder / MANIFEST
    file.write_text(replace(parse_manifest(file.read_text(), file), **changes).to_text())


def test_a_source_is_described_by_its_manifest_and_its_documents(prepared):
    folder, tokenizer = prepared
    record = describe(folder / "train" / "web", tokenizer)
    texts = make_texts(30)
    lengths = [len(tokenizer.encode(text)) + 1 for text in texts]
    assert (record["split"], record["source"], record["format"]) == ("train", "web", "distrain")
    assert (record["tokens"], record["documents"]) == (sum(lengths), 30)
    assert record["text_bytes"] == sum(len(text.encode()) for text in texts)
    assert record["tokenizer"] == tokenizer.fingerprint
    assert (record["lengths"]["min"], record["lengths"]["max"]) == (min(lengths), max(lengths))
    assert record["lengths"]["p50"] == sorted(lengths)[14]
    assert sum(shard["tokens"] for shard in record["shards"]) == record["tokens"]
    top = record["top_tokens"][0]
    ids = [id_ for text in texts for id_ in tokenizer.encode(text)]
    assert top["count"] == ids.count(top["id"]) == max(map(ids.count, set(ids)))
    assert top["name"] == tokenizer.name_of(top["id"])


def test_of_the_test_split_nothing_but_the_manifest_is_read(stage):
    for name in ("00000.bin", "00000.idx", TOKEN_COUNTS):
        file = stage / "test" / "main" / name
        file.write_bytes(b"\xff" * file.stat().st_size)
    record = describe(stage / "test" / "main")
    assert record["documents"] == 30
    assert not {"lengths", "top_tokens"} & record.keys()


def test_what_is_whole_is_found_whole(prepared):
    folder, _ = prepared
    results = [verify_place(place) for place in find_places(folder)]
    assert len(results) == 6
    assert all(not result.damaged for result in results)
    written = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    assert sum(result.files for result in results) == len(written)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_damaged_file_is_named_not_only_the_first(stage, split):
    folder = stage / split / "web"
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    assert len(names) > 5
    for name in names:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    (folder / names[0]).unlink()
    found = dict(problems(stage))
    assert sorted(found) == names
    assert found.pop(names[0]) == "nothing"
    assert all("other content" in text for text in found.values())


def test_a_missing_or_damaged_manifest_hides_no_source(stage):
    (stage / "validation" / "web" / MANIFEST).unlink()
    (stage / "train" / "main" / MANIFEST).write_text("{}")
    assert problems(stage) == [
        (MANIFEST, "a manifest whose checksum does not fit its content"),
        (MANIFEST, "nothing"),
    ]


@pytest.mark.parametrize(
    ("changes", "file", "found"),
    [
        ({"vocab_size": 5}, "00000.bin", r"id \d+ at token 0"),
        ({"eos_id": 7}, "00000.bin", "document 0 of the shard not ending in eos_id"),
        ({"tokens": 5}, MANIFEST, r"\d+ tokens in 30 documents in the shards"),
    ],
)
def test_shards_that_a_defect_wrote_are_found_though_digests_fit(stage, changes, file, found):
    folder = stage / "train" / "main"
    rewrite_manifest(folder, **changes)
    first = verify_place(find_places(folder)[0]).damaged[0]
    assert Path(first.where).name == file
    with pytest.raises(DataError, match=found):
        raise first


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda ends: ends[[1, 0, *range(2, len(ends))]], "end 1 of a document not above the one"),
        (lambda ends: np.append(ends[:-1], ends[-1] - 1), r"\d+ bytes for \d+ values of uint16"),
        (lambda ends: np.append(ends[0] - 1, ends[1:]), "document 0 of the shard not ending in"),
    ],
)
def test_wrong_document_ends_are_found_though_digests_fit(stage, change, found):
    folder = stage / "train" / "main"
    index = folder / "00000.idx"
    index.write_bytes(change(np.fromfile(index, "<u8")).astype("<u8").tobytes())
    manifest = find_places(folder)[0].read_manifest()
    rewrite_manifest(folder, files=manifest.files | {index.name: record_of(index.read_bytes())})
    first = verify_place(find_places(folder)[0]).damaged[0]
    assert Path(first.where).stem == "00000"
    with pytest.raises(DataError, match=found):
        raise first


def test_a_published_copy_is_described_but_not_read(stage):
    rewrite_manifest(stage / "train" / "main", storage="zstd")
    (place,) = find_places(stage / "train" / "main")
    assert describe(place.path)["storage"] == "zstd"
    with pytest.raises(DataError, match="shards stored as zstd"):
        verify_place(place)
    with pytest.raises(DataError, match="shards stored as zstd"):
        place.open(place.read_manifest(), "a test")


def test_places_are_found_at_every_level(prepared):
    folder, _ = prepared
    everything = [
        (split, source) for split in ("train", "validation", "test") for source in ("main", "web")
    ]
    for target, expected in (
        (folder, everything),
        (folder / "train", everything[:2]),
        (folder / "test" / "web", everything[5:]),
        (folder.parent, []),
    ):
        assert [(place.split, place.source) for place in find_places(target)] == expected


def test_a_source_outside_of_a_stage_is_of_the_split_it_says(prepared, tmp_path):
    shutil.copytree(prepared[0] / "test" / "web", tmp_path / "copied")
    (place,) = find_places(tmp_path / "copied")
    manifest = place.read_manifest()
    assert (place.split, manifest.split, manifest.source) == (None, "test", "web")
    with pytest.raises(PreflightError, match="opening the test split"):
        place.open(manifest, "a test")


def test_a_test_split_under_another_name_is_no_way_around_the_guard(stage):
    shutil.rmtree(stage / "train")
    (stage / "test").rename(stage / "train")
    with pytest.raises(DataError, match="the manifest of split 'test' in place of 'train'"):
        find_places(stage / "train" / "main")[0].read_manifest()


def test_the_tokenizer_must_be_the_one_that_made_the_tokens(prepared, tmp_path):
    folder, tokenizer = prepared
    (place,) = find_places(folder / "train" / "main")
    manifest = place.read_manifest()
    found = tokenizer_for(place, manifest, None)
    assert found is not None
    assert found.fingerprint == tokenizer.fingerprint
    make_tokenizer(tmp_path, vocab_size=310)
    with pytest.raises(DataError, match="a tokenizer with fingerprint"):
        tokenizer_for(place, manifest, tmp_path / "tokenizer.json")
    shutil.copytree(place.path, tmp_path / "a" / "b" / "c")
    (alone,) = find_places(tmp_path / "a" / "b" / "c")
    assert tokenizer_for(alone, manifest, None) is None


def foreign(path, tokenizer=None, **reading):
    token_format, files = find_foreign(str(path), None)
    return ForeignFiles(token_format, files, Reading(**reading), tokenizer)


def test_foreign_files_are_found_by_what_they_are(tmp_path):
    for name in ("megatron", "datatrove", "npy", "text", "empty"):
        (tmp_path / name).mkdir()
    write_megatron(tmp_path / "megatron" / "a", [[1, 0]])
    write_datatrove(tmp_path / "datatrove" / "a.ds", [[1, 0]])
    np.save(tmp_path / "npy" / "a.npy", np.array([1, 0], np.uint16))
    (tmp_path / "text" / "a.txt").write_text("x")
    for name in ("megatron", "datatrove", "npy"):
        assert find_foreign(str(tmp_path / name), None)[0] == name
        assert find_foreign(str(tmp_path / name / "a*"), None)[0] == name
    assert find_foreign(str(tmp_path / "megatron" / "a"), None)[0] == "megatron"
    (tmp_path / "megatron" / "a.idx").unlink()
    assert find_foreign(str(tmp_path / "megatron"), None)[0] == "npy"
    for path in ("text", "text/a.txt", "empty"):
        with pytest.raises(DataError, match="no token files; expected a run, a folder with"):
            find_foreign(str(tmp_path / path), None)
    with pytest.raises(DataError, match="nothing of that name"):
        find_foreign(str(tmp_path / "missing"), None)
    with pytest.raises(DataError, match="a URL"):
        find_foreign("s3://bucket/a.npy", None)


def test_foreign_files_are_described(tmp_path):
    documents = make_documents(60)
    write_datatrove(tmp_path / "0.ds", documents[:30], metadata="gpt2|2\n0\n")
    (tmp_path / "0.ds.metadata").write_text(f"gpt2|2\n{sum(map(len, documents[:30]))}\n")
    write_datatrove(tmp_path / "1.ds", documents[30:])
    record = describe_foreign(foreign(tmp_path, eos_id=0))
    flat = [token for ids in documents for token in ids]
    assert (record["tokens"], record["documents"]) == (len(flat), 60)
    assert record["bytes"] == 2 * len(flat)
    assert record["highest_sampled_id"] == max(flat)
    assert record["ending_with_eos"] == record["sampled_documents"] == 60
    assert record["top_tokens"][0] == {
        "id": 0,
        "count": 60,
        "share": round(60 / len(flat), 5),
        "name": None,
    }
    assert [shard["remarks"] for shard in record["shards"]] == [["tokenizer gpt2"], []]


def test_long_streams_are_sampled_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr("distrain.tools.inspect.SAMPLED_TOKENS", 1000)
    monkeypatch.setattr("distrain.tools.inspect.STRETCH", 100)
    monkeypatch.setattr("distrain.tools.inspect.MAX_LENGTHS", 50)
    write_datatrove(tmp_path / "a.ds", [[5] * 9 + [0]] * 500 + [[400] * 19 + [0]] * 500)
    record = describe_foreign(foreign(tmp_path))
    assert record["sampled_tokens"] == 1000
    assert record["lengths_of"] == 50
    assert (record["lengths"]["min"], record["lengths"]["max"]) == (10, 20)
    shares = {token["id"]: token["share"] for token in record["top_tokens"]}
    assert shares == pytest.approx({5: 0.3, 400: 0.63, 0: 0.07}, abs=0.05)


def test_each_damaged_foreign_file_is_named(tmp_path):
    for number in range(3):
        write_datatrove(tmp_path / f"{number}.ds", make_documents(20, seed=number))
    (tmp_path / "0.ds.index").write_bytes(b"1234567")
    ids = np.fromfile(tmp_path / "2.ds", "<u2")
    ids[7] = 60_000
    ids.tofile(tmp_path / "2.ds")
    tokenizer = make_tokenizer(tmp_path / "tokenizer", vocab_size=500)
    with_all_ids = SimpleNamespace(vocab_size=500, eos_id=tokenizer.eos_id)
    results = list(verify_foreign(foreign(tmp_path, tokenizer=with_all_ids)))
    assert [
        (result.path.name, [error.found for error in result.damaged]) for result in results
    ] == [
        ("0.ds", ["7 bytes"]),
        ("1.ds", []),
        ("2.ds", ["id 60000 at token 7"]),
    ]
