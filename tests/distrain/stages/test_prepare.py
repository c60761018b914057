import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distrain.config.recipe import PrepareStage
from distrain.config.run_folder import StageFolder
from distrain.data.manifest import SPLITS
from distrain.data.pairs import open_pairs
from distrain.data.preprocess.cleaning import CleanJob
from distrain.data.shards import open_split
from distrain.data.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.stages.prepare import open_plan, prepare
from tests.distrain.data.test_tokenizer import foreign

WORDS = ["area", "side", "table", "merge", "count", "rotate", "shift", "parse", "label", "point"]

CHILD = """
import os, signal, sys
from pathlib import Path
from distrain.config.recipe import PrepareStage
from distrain.config.run_folder import StageFolder
from distrain.stages.prepare import open_plan, prepare
assert "torch" not in sys.modules, "prepare must start at once"
settings, root, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
events = 0
def count(name, arguments):
    global events
    writes = name == "open" and str(arguments[0]).startswith(root) and arguments[2] & os.O_CREAT
    if writes or name in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        events += 1
        if events == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
prepare(PrepareStage.model_validate_json(settings), StageFolder(Path(root), "prepare"))
sys.stdout.write(str(events))
"""


def write_module(file, number):
    file.write_text('def copied(x):\n    """Return it, as in every module."""\n    return x\n\n\n')
    choose = random.Random(number)
    for name in choose.sample(WORDS, 4):
        one, two, three = choose.choices(WORDS, k=3)
        with file.open("a") as module:
            module.write(
                f"def {name}_{number}({one}, {two}):\n"
                f'    """Return the {three} of {one}, number {number}."""\n'
                f"    if {one} > {number}:\n        return {three}({two})\n"
                f"    return [{one}, {two}, {choose.random()}]\n\n\n"
            )


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Small Python modules, one of them twice, and a picture."""
    folder = tmp_path_factory.mktemp("sources")
    for number in range(60):
        write_module(folder / f"{number % 2}_module_{number:02}.py", number)
    shutil.copyfile(folder / "0_module_00.py", folder / "twice.py")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    return folder


def stage(sources, **sections):
    data = {
        "source": {"kind": "files", "paths": [str(sources)]},
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "shard_tokens": 1_000,
        "workers": 1,
    } | sections.pop("data", {})
    settings = {
        "kind": "prepare",
        "data": data,
        "tokenizer": {"vocab_size": 400},
        "pairs": {"kind": "docstrings"},
    }
    return PrepareStage.model_validate(settings | sections)


def content_of(root):
    """Every file below ``root`` by its hash."""
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def prepared(sources, tmp_path_factory):
    folder = StageFolder(tmp_path_factory.mktemp("run"), "prepare")
    return folder, prepare(stage(sources), folder)


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


def run_child(settings, root, kill_at=0):
    return subprocess.run(
        [sys.executable, "-c", CHILD, settings.model_dump_json(), str(root), str(kill_at)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


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


RANGES = {"range_bytes": 9_000, "keep_cleaned": True}


def test_the_number_of_workers_changes_no_byte(sources, tmp_path):
    folders = [StageFolder(tmp_path / str(workers), "prepare") for workers in (1, 2)]
    results = [
        prepare(stage(sources, data=RANGES | {"workers": int(folder.path.parent.name)}), folder)
        for folder in folders
    ]
    assert results[0] | {"seconds": 0} == results[1] | {"seconds": 0}
    plan = json.loads(folders[0].plan.read_text())
    assert len(plan["sources"]["main"]["ranges"]) > 5
    assert content_of(folders[0].path) == content_of(folders[1].path)


def test_the_cut_into_ranges_loses_repeats_and_moves_no_document(sources, prepared, tmp_path):
    folder, figures = prepared
    cut = StageFolder(tmp_path, "prepare")
    result = prepare(stage(sources, data={"range_bytes": 9_000}), cut)
    assert result["splits"] == figures["splits"]
    assert result["pairs"] == figures["pairs"]
    assert cut.tokenizer.read_bytes() == folder.tokenizer.read_bytes()
    for split in SPLITS:
        whole = open_split(folder.path, split, stage_kind="evaluate")
        parts = open_split(cut.path, split, stage_kind="evaluate")
        for number in range(whole.num_documents):
            assert np.array_equal(whole.document(number), parts.document(number))
        pairs = [open_pairs(each.path, split, stage_kind="evaluate") for each in (folder, cut)]
        assert pairs[0] == pairs[1]


def test_sources_lie_apart_and_every_document_is_accounted_for(sources, tmp_path):
    named = {
        name: {"kind": "files", "paths": [f"{sources}/{pattern}"]}
        for name, pattern in {"even": "[0pt]*", "odd": "1*"}.items()
    }
    folder = StageFolder(tmp_path, "prepare")
    figures = prepare(stage(sources, data={"source": None, "sources": named}), folder)
    for split in SPLITS:
        assert sorted(path.name for path in folder.split(split).iterdir()) == ["even", "odd"]
    assert figures["read"] == 62
    assert figures["dropped"] == {"duplicate": 1, "nul_bytes": 1}
    for name, found in figures["sources"].items():
        total = sum(found["kept"].values()) + sum(found["rejected"].values())
        assert found["read"] == total + sum(found["broken"].values())
        for split in SPLITS:
            tokens = open_split(folder.path, split, name, stage_kind="evaluate")
            assert (tokens.num_documents, tokens.num_tokens) == (
                found["kept"][split],
                found["tokens"][split],
            )
    assert sum(figures["pairs"].values()) == sum(
        len(file.read_text().splitlines()) for file in folder.path.rglob("pairs.jsonl")
    )
    lines = [json.loads(line) for line in folder.rejections.read_text().splitlines()]
    assert [(line["source"], line["reason"]) for line in lines] == [
        ("even", "duplicate"),
        ("even", "nul_bytes"),
    ]
    assert lines[0]["path"].endswith("twice.py")
    assert lines[0]["text"].startswith("def copied")


def test_work_is_kept_on_request_and_else_removed(sources, prepared, tmp_path):
    folder, _ = prepared
    assert not folder.work.exists()
    kept = StageFolder(tmp_path, "prepare")
    prepare(stage(sources, data={"keep_cleaned": True}), kept)
    assert [file.name for file in (kept.work / "cleaned" / "main").glob("*.parquet")]
    assert not (kept.work / "encoded").exists()
    for split in SPLITS:
        assert content_of(kept.split(split)) == content_of(folder.split(split))


@pytest.fixture
def begun(sources, tmp_path):
    """A stage over a copy of the sources that ended after a few ranges."""
    copy = tmp_path / "sources"
    shutil.copytree(sources, copy)
    settings = stage(copy, data=RANGES)
    folder = StageFolder(tmp_path / "run", "prepare")
    for planned in open_plan(settings, folder).ranges[:4]:
        CleanJob(settings.data, planned, folder.work).run()
    return copy, settings, folder


def test_finished_ranges_are_not_made_again(begun, tmp_path, caplog):
    _, settings, folder = begun
    records = list((folder.work / "cleaned" / "main").glob("_0*.json"))
    assert len(records) == 4
    times = {file: file.stat().st_mtime_ns for file in records}
    documents = {file.with_name(f"{file.stem[1:]}.parquet") for file in records}
    times |= {file: file.stat().st_mtime_ns for file in documents}
    with caplog.at_level("INFO"):
        prepare(settings, folder)
    assert f"ranges; {len(records)} are finished" in caplog.text
    assert {file: file.stat().st_mtime_ns for file in times} == times
    fresh = StageFolder(tmp_path / "fresh", "prepare")
    prepare(settings, fresh)
    assert content_of(folder.path) == content_of(fresh.path)


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-40])


def change(file):
    file.write_bytes(file.read_bytes().replace(b"return", b"assert"))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut_off, r"0_module_04.py \(\d+ bytes, it had \d+\)"),
        (change, r"0_module_04.py \(changed, with the same size\)"),
        (os.remove, r"0_module_04.py \(gone\)"),
    ],
)
def test_input_that_is_not_what_it_was_is_refused(begun, damage, found):
    copy, settings, folder = begun
    before = content_of(folder.path)
    damage(copy / "0_module_04.py")
    with pytest.raises(DataError, match=found) as caught:
        prepare(settings, folder)
    assert f"remove the folder {folder.path} to begin again" in caught.value.remedy
    assert content_of(folder.path) == before, "what was made is kept"


def test_files_that_came_later_are_left_out_and_named(begun, caplog):
    copy, settings, folder = begun
    write_module(copy / "later.py", 99)
    figures = prepare(settings, folder)
    assert figures["read"] == 62
    assert "1 files that came after the stage began are left out, the first is" in caplog.text
    assert "later.py" in caplog.text


def count_files(root):
    """Files of a stage, finished or not: they grow in number as it goes on."""
    return sum(len(files) for _, _, files in os.walk(root))


@pytest.mark.data
def test_killed_with_all_its_workers_at_any_time_it_makes_the_same_bytes(sources, tmp_path):
    settings = stage(sources, data={"range_bytes": 9_000, "workers": 4})
    wanted = StageFolder(tmp_path / "wanted", "prepare")
    prepare(stage(sources, data={"range_bytes": 9_000, "workers": 1}), wanted)
    choose = random.Random(5)
    root = tmp_path / "killed"
    for _ in range(5):
        child = start_child(settings, root)
        wanted_files = count_files(root) + choose.randint(1, 12)
        while count_files(root) < wanted_files:
            assert child.poll() is None, "it ended too early"
            time.sleep(0.001)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    child = start_child(settings, root)
    child.wait()
    assert child.returncode == 0
    assert content_of(root) == content_of(wanted.path.parent)


@pytest.mark.data
def test_a_worker_that_is_killed_ends_the_stage_and_the_next_attempt_goes_on(sources, tmp_path):
    settings = stage(sources, data={"range_bytes": 2_000, "workers": 2})
    child = start_child(settings, tmp_path / "run")
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    while child.poll() is None:
        workers = children.read_text().split()
        busy = list((tmp_path / "run" / "prepare" / "work").glob("cleaned/main/_0*.json"))
        if len(workers) >= 2 and busy:
            os.kill(int(workers[-1]), signal.SIGKILL)
            break
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 1
    assert re.search(r"a worker died \(signal 9, SIGKILL\) while \w+ing range \d+ of", errors)
    deadline = time.monotonic() + 20
    while any((Path("/proc") / worker).exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived the stage"
        time.sleep(0.05)
    prepare(settings, StageFolder(tmp_path / "run", "prepare"))


def start_child(settings, root):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, settings.model_dump_json(), str(root), "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
