import shutil

import pytest

from distrain.data.remote.cache.block_cache import BlockCache
from distrain.data.remote.cache.remote_store import RemoteStore
from distrain.data.remote.cache.settings import CacheSettings
from distrain.data.remote.publish import PublishSettings, publish
from distrain.data.remote.published import list_remote_sources, read_manifest, read_tokenizer_files
from distrain.data.remote.shards import open_remote_split
from distrain.data.shards.manifest import MANIFEST
from distrain.data.shards.reader import open_split
from distrain.data.shards.writer import DataOrigin, ShardWriter
from distrain.errors import DataError
from tests.distrain.data.made_corpus import make_texts, make_tokenizer, write_split


class CutOffError(Exception):
    """Raised in place of a write."""


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr("distrain.data.remote.cache.fetching.FIRST_DELAY_S", 0.001)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    write_split(folder, "train", make_texts(40), block_bytes=256)
    write_split(folder, "train", make_texts(10, seed=1), source="other", block_bytes=256, pairs=[])
    write_split(folder, "validation", make_texts(5), block_bytes=256)
    return folder


@pytest.fixture
def writes(monkeypatch):
    """Names written to a store, in order."""
    names: list[str] = []
    writing = RemoteStore.writing

    def counted(store, name):
        names.append(name)
        return writing(store, name)

    monkeypatch.setattr(RemoteStore, "writing", counted)
    return names


def content_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tokens_at(url, folder, split="train", source="main"):
    cache = BlockCache(CacheSettings(folder=folder))
    opened = open_remote_split(RemoteStore(url), split, source, stage_kind="pretrain", cache=cache)
    return opened.tokens(0, opened.num_tokens).tolist()


def local_tokens(folder, split="train", source="main"):
    opened = open_split(folder, split, source, stage_kind="pretrain")
    return opened.tokens(0, opened.num_tokens).tolist()


def test_all_splits_and_sources_arrive_with_the_tokenizer_and_the_manifest_last(
    local, tmp_path, writes
):
    manifests = publish(local, f"file://{tmp_path}/there", PublishSettings(threads=1))
    assert [(m.split, m.source) for m in manifests] == [
        ("train", "main"),
        ("train", "other"),
        ("validation", "main"),
    ]
    assert writes.index(MANIFEST) > writes.index("00001.bin.zst")
    for split, source in (("train", "main"), ("train", "other"), ("validation", "main")):
        there = tokens_at(f"file://{tmp_path}/there", tmp_path / "cache", split, source)
        assert there == local_tokens(local, split, source)
    tokenizer = tmp_path / "there" / "tokenizer.json"
    assert tokenizer.read_bytes() == (local / "tokenizer.json").read_bytes()
    assert {path.name for path in (tmp_path / "there").rglob("*.table")} == {"blocks.table"}
    stored = sum(path.stat().st_size for path in (tmp_path / "there").rglob("*.bin.zst"))
    assert stored < sum(path.stat().st_size for path in local.rglob("*.bin"))


def test_what_was_published_is_listed_and_loaded_without_listing_a_store(local, tmp_path):
    (local / "tokenizer_config.json").unlink(missing_ok=True)
    store = RemoteStore(f"file://{tmp_path}/there")
    publish(local, store.url)
    assert list_remote_sources(store, "train", timeout_s=1) == ["main", "other"]
    with pytest.raises(DataError, match=r"published.json: found no source of the test split"):
        list_remote_sources(store, "test", timeout_s=1)
    with pytest.raises(DataError, match=r"published.json .*no such object"):
        list_remote_sources(RemoteStore(f"file://{tmp_path}/nowhere"), "train", timeout_s=1)
    content = (local / "tokenizer.json").read_bytes()
    assert read_tokenizer_files(store, timeout_s=1) == {"tokenizer.json": content}


def test_the_names_of_a_foreign_tokenizers_control_tokens_come_along(local, tmp_path):
    folder = tmp_path / "prepare"
    shutil.copytree(local, folder)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    store = RemoteStore(f"file://{tmp_path}/there")
    publish(folder, store.url)
    assert read_tokenizer_files(store, timeout_s=1).keys() == {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    (tmp_path / "there" / "tokenizer.json").write_text('{"cut')
    with pytest.raises(DataError, match=r"tokenizer.json .*content that does not fit"):
        read_tokenizer_files(store, timeout_s=5)


def test_a_raw_source_can_be_copied_back_and_read_as_it_is(local, tmp_path):
    publish(local, f"file://{tmp_path}/raw", PublishSettings(storage="raw"))
    assert local_tokens(tmp_path / "raw") == local_tokens(local)


def test_a_compressed_source_opened_as_a_folder_says_how_to_read_it(local, tmp_path):
    publish(local, f"file://{tmp_path}/there")
    with pytest.raises(DataError, match="shards stored as zstd") as caught:
        open_split(tmp_path / "there", "train", stage_kind="pretrain", verify=False)
    assert f"file://{tmp_path}/there" in caught.value.remedy


def test_a_copied_folder_is_no_published_one(local, tmp_path):
    with pytest.raises(DataError, match="without a table of their blocks"):
        tokens_at(f"file://{local}", tmp_path)


@pytest.mark.parametrize("verify", [True, False])
def test_cut_off_anywhere_it_goes_on_without_uploading_twice(
    local, tmp_path, monkeypatch, writes, verify
):
    settings = PublishSettings(threads=1, verify=verify)
    publish(local, f"file://{tmp_path}/whole", settings)
    wanted, order = content_of(tmp_path / "whole"), list(writes)
    counted = RemoteStore.writing
    for number in range(1, len(order), 3):
        writes.clear()

        def cut(store, name, last=number):
            if len(writes) >= last:
                raise CutOffError(name)
            return counted(store, name)

        url = f"file://{tmp_path}/cut{number}"
        monkeypatch.setattr(RemoteStore, "writing", cut)
        with pytest.raises(CutOffError):
            publish(local, url, settings)
        done = list(writes)
        monkeypatch.setattr(RemoteStore, "writing", counted)
        writes.clear()
        publish(local, url, settings)
        assert content_of(tmp_path / f"cut{number}") == wanted
        # What has its part of the table is not sent again, nor is what belongs to no shard.
        tables = [name.replace(".table", ".bin.zst") for name in done if name.endswith(".table")]
        again = [name for name in writes if name.endswith(".bin.zst")]
        all_shards = [name for name in order if name.endswith(".bin.zst")]
        assert len(again) == len(all_shards) - len([t for t in tables if t in all_shards])


@pytest.mark.parametrize("verify", [True, False])
def test_what_another_corpus_left_when_it_was_cut_off_is_not_taken(tmp_path, monkeypatch, verify):
    origin = DataOrigin(make_tokenizer(tmp_path), corpus="made")
    for name, token in (("old", 7), ("new", 8)):
        target = tmp_path / name / "train" / "main"
        with ShardWriter(target, origin, shard_tokens=500, block_bytes=256) as writer:
            for _ in range(20):
                writer.add([token] * 60, 60)
            writer.commit()
    writing = RemoteStore.writing

    def cut(store, name):
        if name == MANIFEST:
            raise CutOffError(name)
        return writing(store, name)

    url = f"file://{tmp_path}/there"
    settings = PublishSettings(storage="raw", verify=verify)
    monkeypatch.setattr(RemoteStore, "writing", cut)
    with pytest.raises(CutOffError):
        publish(tmp_path / "old", url, settings)
    monkeypatch.setattr(RemoteStore, "writing", writing)
    publish(tmp_path / "new", url, settings)
    assert tokens_at(url, tmp_path / "cache") == local_tokens(tmp_path / "new")


def test_what_is_damaged_there_is_found_and_written_anew(local, tmp_path, writes):
    url = f"file://{tmp_path}/there"
    publish(local, url)
    wanted = content_of(tmp_path / "there")
    for name in ("00001.bin.zst", "00000.idx.zst", "unigram.npy", MANIFEST, "blocks.table"):
        file = tmp_path / "there" / "train" / "main" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        writes.clear()
        publish(local, url)
        assert name in writes
        assert content_of(tmp_path / "there") == wanted


def test_a_whole_source_is_left_as_it_is_and_another_one_refused(local, tmp_path, writes):
    url = f"file://{tmp_path}/there"
    publish(local, url)
    writes.clear()
    publish(local, url)
    assert not [name for name in writes if name.endswith((".bin.zst", ".idx.zst"))]
    write_split(tmp_path / "new", "train", make_texts(3))
    with pytest.raises(DataError, match="another split"):
        publish(tmp_path / "new", url)
    with pytest.raises(DataError, match=r"another split \(zstd"):
        publish(local, url, PublishSettings(storage="raw"))
    assert tokens_at(url, tmp_path / "cache") == local_tokens(local)


def test_a_damaged_split_is_not_published(local, tmp_path):
    shutil.copytree(local, tmp_path / "copy")
    file = tmp_path / "copy" / "train" / "main" / "00000.bin"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    with pytest.raises(DataError, match=r"00000.bin: found other content in block 0"):
        publish(tmp_path / "copy", f"file://{tmp_path}/there")
    assert not (tmp_path / "there").exists()
    with pytest.raises(DataError, match="no finished split"):
        publish(tmp_path / "absent", f"file://{tmp_path}/there")


def test_the_digest_of_the_data_is_the_same_there(local, tmp_path):
    mine = open_split(local, "train", stage_kind="pretrain").manifest
    for storage in ("raw", "zstd"):
        url = f"memory://{tmp_path.name}-{storage}"
        publish(local, url, PublishSettings(storage=storage))
        there = read_manifest(RemoteStore(url).below("train", "main"), timeout_s=1)
        assert (there.digest, there.storage) == (mine.digest, storage)
    other = open_split(local, "train", "other", stage_kind="pretrain").manifest
    assert other.digest != mine.digest
