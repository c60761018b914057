"""The stage over ranges of its input: any workers, any cut, killed and gone on."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from distrain.config.data import SPLITS
from distrain.data.chats.pairs_file import open_pairs
from distrain.data.corpus.cleaning import CleanJob
from distrain.data.shards.reader import open_split
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.stages.prepare import open_plan, prepare
from tests.distrain.stages.preparing import content_of, stage, start_child, write_module

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
