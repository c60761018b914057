"""What a save asks of a file system is told from its work, which is held to seconds."""

import os
import shutil

import pytest

from distrain.checkpoint.entries import SyncedFiles
from distrain.checkpoint.layout import Name
from distrain.checkpoint.removing import retire
from distrain.fault.page import page
from distrain.runs.progress_page import WAITS_FOR_FILES, read_pages


@pytest.fixture
def waits(tmp_path):
    """Return what this process's page says that it waits for."""
    folder = tmp_path / "pages"
    folder.mkdir()
    page.open(folder, 0)
    page.mark("save", 1)
    yield lambda: read_pages(folder)[0].main.waits
    page.close()


def noted(monkeypatch, module, name, waits):
    seen, real = [], getattr(module, name)

    def note(*arguments, **named):
        seen.append(waits())
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, note)
    return seen


def test_a_written_file_is_synced_before_it_is_closed(tmp_path, monkeypatch, waits):
    seen = noted(monkeypatch, os, "fsync", waits)
    with SyncedFiles().create_stream(tmp_path / "file", "wb") as stream:
        stream.write(b"all")
        assert waits() == 0
        stream.close()
        assert seen == [WAITS_FOR_FILES]
    assert (tmp_path / "file").read_bytes() == b"all"
    assert (len(seen), waits()) == (1, 0)


def test_a_file_that_cannot_be_synced_is_closed_and_the_error_seen(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    stream_of = SyncedFiles().create_stream(tmp_path / "file", "wb")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"), stream_of as stream:
        stream.write(b"all")
    assert stream.closed


def test_an_old_checkpoint_is_removed_within_such_a_call(tmp_path, monkeypatch, waits):
    names = [Name(step, 0) for step in (1, 2)]
    for name in names:
        (tmp_path / str(name)).mkdir()
    seen = noted(monkeypatch, shutil, "rmtree", waits)
    assert retire(tmp_path, names, 1) == 1
    assert (seen, waits()) == ([WAITS_FOR_FILES], 0)
