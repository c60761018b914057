"""What is said to a fork server, and what becomes of one that does not answer."""

import json
import os
import signal
from contextlib import closing

import pytest

from launcher.backends import beats
from launcher.backends import fork_server as server_module
from launcher.backends.fork_server import ForkServer, RankOrder
from tests.launcher.backends.test_ranks import HANG, HEAD, is_alive, wait_until
from tests.runtime_command import runtime_command


@pytest.fixture
def started(tmp_path):
    """Start a server, and two ranks that run a script; return it with their process ids."""
    servers = []

    def start(script):
        (tmp_path / "script.py").write_text(script)
        python = runtime_command(tmp_path / "bin", tmp_path / "script.py")
        argv = [python, "-m", "distrain.fork_server", str(tmp_path), "train", "--ranks=2"]
        server = ForkServer(argv, os.environ, tmp_path / "server.log")
        servers.append(server)
        env = {**os.environ, "WORLD_SIZE": "2"}
        ranks = (RankOrder({**env, "RANK": str(i)}, tmp_path / f"{i}.log") for i in range(2))
        server.ask(tuple(ranks), None)
        return server, server.pids()

    yield start
    for server in servers:
        server.close()


def test_questions_that_arrive_together_are_all_answered(started):
    server, pids = started(HEAD)
    lines = b"".join(json.dumps({"reap": pid}).encode() + b"\n" for pid in pids)
    server._socket.settimeout(5)
    server._socket.sendall(lines)
    assert [server._read("reaped") for _ in pids] == [{"reaped": pid, "code": 0} for pid in pids]


def test_a_server_that_does_not_answer_in_time_is_ended_with_its_ranks(started, monkeypatch):
    monkeypatch.setattr(server_module, "REAP_S", 0.2)
    server, pids = started(HANG)
    child = server._child.pid
    os.kill(child, signal.SIGSTOP)
    assert server.reap(pids[0]) is None
    # Else its answer would be the first to the next question.
    assert not server.is_alive
    wait_until(lambda: not any(map(is_alive, pids)), 2)
    assert server.reap(pids[1]) is None


def test_who_waits_for_a_server_is_not_taken_for_a_silent_node():
    assert server_module.REAP_S + beats.BEAT_S < beats.SILENCE_S


def test_a_server_may_think_as_long_as_it_likes_after_it_was_asked_how_a_rank_ended(started):
    server, pids = started(HEAD)
    with closing(server):
        assert server.reap(pids[0]) == 0
        assert server._socket.gettimeout() is None
