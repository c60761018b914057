"""Decisions on what is left out are on disk, whole, in their order, or were not made."""

from dataclasses import replace

import pytest

from distrain.errors import CheckpointError
from distrain.runs.folder import StageFolder
from distrain.runs.skips import Skip, append_skip, digest, find_skip, read_skips

FIRST = Skip(11, 14, 80, 112, "loss", 13, 10)
SECOND = Skip(
    20, 20, 152, 160, "grad_norm", 20, None, {"loss": 3.25, "grad_norm": float("nan")}
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = StageFolder(tmp_path, "pretrain")
    folder.path.mkdir()
    return folder


def test_what_was_written_is_read(folder):
    assert read_skips(folder) == ()
    append_skip(folder, FIRST)
    append_skip(folder, SECOND)
    read = read_skips(folder)
    assert read == (FIRST, replace(SECOND, measured={"loss": 3.25, "grad_norm": None}))
    assert digest(read) == digest((FIRST, SECOND))
    assert digest(read) != digest(read[::-1])
    assert digest(read[:1]) != digest(read)


def test_a_decision_cut_short_was_not_made_and_the_next_is_not_glued_to_it(folder):
    append_skip(folder, FIRST)
    whole = folder.skips.read_bytes()
    for length in (1, 20, len(whole) - 1):
        folder.skips.write_bytes(whole + whole[:length])
        assert read_skips(folder) == (FIRST,)
        append_skip(folder, SECOND)
        assert read_skips(folder)[1].reason == "grad_norm"


@pytest.mark.parametrize("line", ["\0\0\0", "[1]", '{"first_step": 3}', "{}"])
def test_a_damaged_line_is_never_passed_over(folder, line):
    append_skip(folder, FIRST)
    with folder.skips.open("a") as file:
        file.write(line + "\n")
    append_skip(folder, SECOND)
    with pytest.raises(CheckpointError, match="Restore the file from a copy"):
        read_skips(folder)


@pytest.mark.parametrize(
    ("first", "count", "found"),
    [
        (72, 8, None),
        (72, 9, FIRST),
        (80, 8, FIRST),
        (111, 1, FIRST),
        (112, 8, None),
        (0, 500, FIRST),
    ],
)
def test_a_step_is_left_out_by_the_samples_that_it_reads(first, count, found):
    assert find_skip((FIRST, SECOND), first, count) == found
