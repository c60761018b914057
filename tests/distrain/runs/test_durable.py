import os
from pathlib import Path

import pytest

from distrain.runs.durable import remove, remove_unfinished, whole_folder, write_text
from distrain.runs.lock import acquire
from distrain.runs.records import append_event, write_json


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_records_have_the_modes_that_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "text", "old")
        write_text(tmp_path / "text", "new")
        write_json(tmp_path / "json", {})
        append_event(tmp_path / "events", "started", "stage")
        os.close(acquire(tmp_path / "lock", "run"))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("text", "json", "events", "lock"), 0o666 & ~mask)


def test_a_text_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    write_text(tmp_path / "text", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "text", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "old"


def test_what_a_killed_write_left_is_removed(tmp_path, monkeypatch):
    write_text(tmp_path / "text", "old")
    monkeypatch.setattr(Path, "replace", lambda *paths: os._exit(9))  # after all bytes are written
    pid = os.fork()
    if pid == 0:
        write_text(tmp_path / "text", "new")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_only_the_link_is_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    for name, target in (("to_folder", "folder"), ("to_file", "folder/file"), ("nowhere", "no")):
        (tmp_path / name).symlink_to(target)
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "file").exists()
    remove(tmp_path / "folder")
    remove(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_a_whole_folder_takes_the_place_of_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").symlink_to("elsewhere")
    for text in ("one", "two"):
        with whole_folder(tmp_path / "model") as partial:
            (partial / "file").write_text(text)
        assert (tmp_path / "model" / "file").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "model"]
    assert not list((tmp_path / "elsewhere").iterdir())
