import json
import shutil
import signal

import numpy as np
import pytest

from distrain.config.data import SPLITS
from distrain.data.chats.pairs_file import open_pairs
from distrain.data.shards.reader import open_split
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.stages.prepare import prepare
from tests.distrain.data.tokenizer.test_tokenizer import foreign
from tests.distrain.stages.preparing import content_of, run_child, stage


def test_the_figures_are_those_of_what_lies_there(prepared):
    folder, figures = prepared
    assert figures["dropped"] == {"duplicate": 1, "nul_bytes": 1}
    assert figures["vocab_size"] == Tokenizer.load(folder.tokenizer).vocab_size == 400
    for split in SPLITS:
        tokens = open_split(folder.path, split, stage_kind="evaluate")
        assert figures["splits"][split] == {
            "documents": tokens.num_documents,
            "tokens": tokens.num_tokens,
            "bytes": tokens.manifest.text_bytes,
        }
        pairs = open_pairs(folder.path, split, stage_kind="evaluate")
        assert figures["pairs"][split] == len(pairs) > 0
    assert len(open_split(folder.path, "train", stage_kind="pretrain").manifest.shards) > 2
    assert figures["tokens_per_byte"] == pytest.approx(figures["tokens"] / figures["bytes"], 1e-3)
    json.dumps(figures)


def test_no_document_and_no_prompt_is_in_two_splits(prepared):
    folder, _ = prepared
    tokenizer = Tokenizer.load(folder.tokenizer)
    texts, prompts = [], []
    for split in SPLITS:
        tokens = open_split(folder.path, split, stage_kind="evaluate")
        numbers = range(tokens.num_documents)
        texts.append(
            {tokenizer.decode(tokens.document(number)[:-1].tolist()) for number in numbers}
        )
        pairs = open_pairs(folder.path, split, stage_kind="evaluate")
        prompts.append({pair.prompt for pair in pairs})
        for pair in pairs:
            assert any(pair.prompt.splitlines()[0] in text for text in texts[-1]), "its own split"
    for groups in (texts, prompts):
        assert not groups[0] & groups[1]
        assert not groups[0] & groups[2]
        assert not groups[1] & groups[2]


def test_held_out_text_does_not_reach_the_tokenizer(sources, prepared, tmp_path):
    folder, _ = prepared
    changed = tmp_path / "sources"
    shutil.copytree(sources, changed)
    tokenizer = Tokenizer.load(folder.tokenizer)
    held_out = open_split(folder.path, "validation", stage_kind="prepare")
    gone = tokenizer.decode(held_out.document(0)[:-1].tolist())
    removed = [
        file
        for file in changed.glob("*.py")
        if file.read_text(errors="replace").strip().startswith(gone[:200].strip())
    ]
    assert removed
    for file in removed:
        file.unlink()
    again = StageFolder(tmp_path, "prepare")
    prepare(stage(changed), again)
    assert again.tokenizer.read_bytes() == folder.tokenizer.read_bytes()


def test_doing_it_again_changes_nothing_and_another_process_makes_the_same_bytes(
    sources, prepared, tmp_path
):
    folder, figures = prepared
    times = {file: file.stat().st_mtime_ns for file in folder.path.rglob("*")}
    again = prepare(stage(sources), folder)
    assert {file: file.stat().st_mtime_ns for file in folder.path.rglob("*")} == times
    assert again | {"seconds": 0} == figures | {"seconds": 0}
    run_child(stage(sources), tmp_path)
    assert content_of(tmp_path) == content_of(folder.path.parent)


@pytest.mark.parametrize("points", [2, pytest.param(6, marks=pytest.mark.data)])
def test_killed_at_any_write_it_goes_on_to_the_same_bytes(sources, prepared, tmp_path, points):
    folder, _ = prepared
    settings = stage(sources)
    whole = run_child(settings, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    events = int(whole.stdout)
    assert events > 20
    wanted = content_of(folder.path.parent)
    for kill_at in sorted({2, *range(4, events, events // points), events}):
        root = tmp_path / f"killed_{kill_at}"
        killed = run_child(settings, root, kill_at)
        assert killed.returncode == -signal.SIGKILL
        finished = {
            split: content_of(root / "prepare" / split / "main")
            for split in SPLITS
            if (root / "prepare" / split / "main").exists()
        }
        # What has a split's name is whole: nothing half-written is ever under it.
        for split, content in finished.items():
            assert content == content_of(folder.path / split / "main")
        inodes = {split: (root / "prepare" / split / "main").stat().st_ino for split in finished}
        prepare(settings, StageFolder(root, "prepare"))
        for split, inode in inodes.items():
            assert (root / "prepare" / split / "main").stat().st_ino == inode, (
                "finished, yet made again"
            )
        assert content_of(root) == wanted


def test_a_damaged_split_is_made_again_and_the_others_are_kept(sources, prepared, tmp_path):
    folder, _ = prepared
    shutil.copytree(folder.path.parent, tmp_path / "run")
    copy = StageFolder(tmp_path / "run", "prepare")
    file = copy.split("test") / "main" / "00000.bin"
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    kept = (copy.split("train") / "main").stat().st_ino
    prepare(stage(sources), copy)
    assert content_of(copy.path.parent) == content_of(folder.path.parent)
    assert (copy.split("train") / "main").stat().st_ino == kept


def test_another_corpus_or_setting_leaves_no_old_part(sources, prepared, tmp_path):
    folder, _ = prepared
    for name, settings in {
        "setting": stage(sources, tokenizer={"vocab_size": 350}),
        "corpus": stage(sources, data={"source": {"kind": "files", "paths": [f"{sources}/1*"]}}),
    }.items():
        shutil.copytree(folder.path.parent, tmp_path / name)
        prepare(settings, StageFolder(tmp_path / name, "prepare"))
        prepare(settings, StageFolder(tmp_path / f"{name}_fresh", "prepare"))
        assert content_of(tmp_path / name) == content_of(tmp_path / f"{name}_fresh")


def test_without_pairs_no_pairs_are_written(sources, tmp_path):
    folder = StageFolder(tmp_path, "prepare")
    figures = prepare(stage(sources, pairs={"kind": "none"}), folder)
    assert figures["pairs"] == {}
    assert not list(folder.path.rglob("pairs.jsonl"))


def test_pairs_asked_of_text_without_functions_are_refused(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"{number}.txt").write_text(f"text {number}")
    folder = StageFolder(tmp_path, "prepare")
    with pytest.raises(DataError, match="no documented Python function in the train split"):
        prepare(stage(texts), folder)
    assert not [split for split in SPLITS if folder.split(split).exists()]


def test_a_ready_tokenizer_is_taken_as_it_is(sources, tmp_path):
    (tmp_path / "model").mkdir()
    source = Tokenizer.load(foreign(tmp_path / "model", config={"eos_token_id": 1}))
    folder = StageFolder(tmp_path, "prepare")
    figures = prepare(stage(sources, tokenizer={"path": str(tmp_path / "model")}), folder)
    assert figures["vocab_size"] == source.vocab_size
    split = open_split(folder.path, "train", stage_kind="pretrain")
    assert (split.eos_id, split.manifest.tokenizer) == (1, source.fingerprint)
    assert np.unique(split.document(0)).max() < source.vocab_size


def test_a_missing_folder_is_named_and_nothing_is_written(tmp_path):
    folder = StageFolder(tmp_path, "prepare")
    with pytest.raises(DataError, match="no file or folder"):
        prepare(stage(tmp_path / "absent"), folder)
    assert list(tmp_path.iterdir()) == []
