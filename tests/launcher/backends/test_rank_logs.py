"""The log in which the lines of ranks come together."""

import os
from pathlib import Path

import pytest

from launcher.backends.rank_logs import LONGEST_BYTES, JoinedLogs, RankLog


@pytest.fixture
def rank(tmp_path):
    path = tmp_path / "0.log"
    path.touch()
    return path


def read_in_turn(path, pieces):
    log = RankLog(path, 0)
    found = []
    with path.open("ab", buffering=0) as output:
        for piece in pieces:
            output.write(piece)
            found.append(log.read(at_end=False))
    found.append(log.read(at_end=True))
    log.close()
    return found


def test_progress_that_goes_back_to_the_begin_of_its_line_is_passed_on(rank):
    found = read_in_turn(rank, [b"\r10%", b"\r20%\r30%", b"\r\n\nnext\r", b"\nlast"])
    assert found == [
        b"",
        b"[rank 0] 10%\n[rank 0] 20%\n",
        b"[rank 0] 30%\n[rank 0] \n",
        b"[rank 0] next\n",
        b"[rank 0] last\n",
    ]


def test_a_line_without_an_end_is_passed_on_in_pieces(rank):
    long = b"x" * (LONGEST_BYTES + 1)
    assert read_in_turn(rank, [long, b"y"]) == [
        b"[rank 0] " + long + b"\n",
        b"",
        b"[rank 0] y\n",
    ]


def test_a_log_that_cannot_be_written_ends_nothing_and_it_is_said_once(rank, tmp_path):
    said: list[str] = []
    rank.write_text("a line\n")
    with Path("/dev/full").open("wb") as full:
        logs = JoinedLogs([RankLog(rank, 0)], tmp_path / "log", said.append)
        os.dup2(full.fileno(), logs._output)
        logs.pass_on()
        logs.say("first to fail: rank 0")
        logs.close()
    assert said == [
        f"{tmp_path}/log lacks lines of ranks (No space left on device); their own files have them"
    ]
