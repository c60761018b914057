import shutil

import numpy as np
import pytest

from distrain.config.data import SPLITS
from distrain.config.recipe import Stage
from distrain.data.shards.manifest import MANIFEST, open_manifest
from distrain.data.shards.reader import check_tokenizer, open_split
from distrain.errors import DataError, PreflightError
from tests.distrain.data.made_corpus import make_texts, write_split

KINDS = [
    section.model_fields["kind"].annotation.__args__[0] for section in Stage.__args__[0].__args__
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    texts = make_texts(40)
    tokenizer = write_split(folder, "train", texts)
    return folder, texts, tokenizer


def test_documents_come_back_as_they_were_written(made):
    folder, texts, tokenizer = made
    split = open_split(folder, "train", stage_kind="pretrain")
    assert len(split.manifest.shards) > 2
    assert split.num_documents == len(texts)
    for number, text in enumerate(texts):
        *ids, end = split.document(number).tolist()
        assert (tokenizer.decode(ids), end) == (text, tokenizer.eos_id)
    with pytest.raises(IndexError, match="document 40 of 40"):
        split.document(40)


def test_a_tokenizer_that_did_not_make_them_is_refused(made):
    folder, _, tokenizer = made
    split = open_split(folder, "train", stage_kind="pretrain")
    check_tokenizer(split, tokenizer.fingerprint)
    with pytest.raises(DataError, match="tokens made with the tokenizer"):
        check_tokenizer(split, "0" * 64)


def test_the_stream_reads_alike_across_shards(made):
    folder, _, _ = made
    split = open_split(folder, "train", stage_kind="pretrain")
    whole = np.concatenate([split.document(n) for n in range(split.num_documents)])
    assert len(whole) == split.num_tokens
    for start, length in [(0, 1), (900, 300), (0, 10**6), (split.num_tokens - 2, 5), (10**6, 3)]:
        assert (
            split.tokens(start, start + length).tolist() == whole[start : start + length].tolist()
        )


def test_manifest_counts_what_was_written(made):
    folder, texts, tokenizer = made
    split = open_split(folder, "train", stage_kind="pretrain")
    assert split.manifest.text_bytes == sum(len(text.encode()) for text in texts)
    assert split.token_counts.sum() == split.num_tokens
    assert split.token_counts[tokenizer.eos_id] == len(texts)
    # The bytes behind the tokens are those of the text: what bits per byte divide by.
    assert (split.token_counts * tokenizer.token_bytes()).sum() == split.manifest.text_bytes
    assert split.manifest.tokenizer == tokenizer.fingerprint


def test_no_shard_is_longer_than_asked_unless_a_document_is(tmp_path):
    write_split(tmp_path, "train", [*make_texts(30), "0 " * 500], shard_tokens=200)
    split = open_split(tmp_path, "train", stage_kind="pretrain")
    *shards, last = split.manifest.shards
    assert all(shard.tokens <= 200 for shard in shards)
    assert last.documents == 1


def test_large_vocabularies_take_four_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("distrain.data.shards.writer.UINT16_IDS", 100)
    texts = make_texts(3)
    tokenizer = write_split(tmp_path, "train", texts)
    split = open_split(tmp_path, "train", stage_kind="pretrain")
    assert split.manifest.dtype == "uint32"
    assert tokenizer.decode(split.document(2)[:-1]) == texts[2]


def test_only_evaluate_opens_the_test_split(tmp_path):
    for split in SPLITS:
        write_split(tmp_path, split, make_texts(3), pairs=[])
    assert set(KINDS) == {"prepare", "pretrain", "sft", "preference", "evaluate", "export"}
    for kind in [*KINDS, "", "Evaluate", "evaluate ", "generate", "report"]:
        if kind == "evaluate":
            assert open_split(tmp_path, "test", stage_kind=kind).num_documents == 3
            continue
        for opener in (open_split, open_manifest):
            with pytest.raises(PreflightError, match="opening the test split"):
                opener(tmp_path, "test", stage_kind=kind)
        assert open_split(tmp_path, "validation", stage_kind=kind).num_documents == 3


def test_a_path_like_split_is_no_way_around_the_guard(tmp_path):
    write_split(tmp_path, "test", make_texts(3))
    for split in ("../prepare/test", "test/", "./test"):
        with pytest.raises(ValueError, match="expected one of train, validation, test"):
            open_split(tmp_path, split, stage_kind="pretrain")


def test_a_test_split_under_another_name_is_refused(tmp_path):
    write_split(tmp_path, "test", make_texts(3))
    (tmp_path / "test").rename(tmp_path / "train")
    with pytest.raises(DataError, match="the manifest of split 'test'"):
        open_split(tmp_path, "train", stage_kind="pretrain")


def test_a_flipped_byte_in_any_file_is_found_and_named(made, tmp_path):
    folder, _, _ = made
    names = sorted(path.name for path in (folder / "train" / "main").iterdir())
    assert {
        "00000.bin",
        "00000.idx",
        "00000.blocks",
        "00000.paths.zst",
        "unigram.npy",
        MANIFEST,
    } <= set(names)
    for name in names:
        shutil.copytree(folder / "train", tmp_path / name / "train")
        file = tmp_path / name / "train" / "main" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
        with pytest.raises(DataError, match=name):
            open_split(tmp_path / name, "train", stage_kind="pretrain")


@pytest.mark.parametrize("name", ["00001.bin", "00000.idx", "unigram.npy", MANIFEST])
@pytest.mark.parametrize("harm", ["cut", "missing"])
def test_a_cut_or_missing_file_is_found_without_reading_all(made, tmp_path, name, harm):
    folder, _, _ = made
    shutil.copytree(folder / "train", tmp_path / "train")
    file = tmp_path / "train" / "main" / name
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()
    with pytest.raises(DataError, match=name) as caught:
        open_split(tmp_path, "train", stage_kind="pretrain", verify=False)
    assert "prepare stage" in caught.value.remedy


def test_another_format_version_is_named(made, tmp_path, monkeypatch):
    folder, _, _ = made
    shutil.copytree(folder / "train", tmp_path / "train")
    manifest = open_manifest(folder, "train", stage_kind="sft")[1]
    monkeypatch.setattr("distrain.data.shards.manifest.FORMAT_VERSION", 3)
    (tmp_path / "train" / "main" / MANIFEST).write_text(manifest.to_text())
    monkeypatch.undo()
    with pytest.raises(DataError, match="shards of another format version"):
        open_split(tmp_path, "train", stage_kind="pretrain")


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_split(tmp_path, "train", ["fine", None])
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    with pytest.raises(DataError, match="Run the prepare stage first"):
        open_split(tmp_path, "train", stage_kind="pretrain")
