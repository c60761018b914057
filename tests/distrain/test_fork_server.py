"""What hinders a fork."""

from pathlib import Path

from distrain.fork_server import find_obstacle


def test_a_thread_that_ends_while_it_is_looked_at_is_no_obstacle(monkeypatch):
    gone = Path("/proc/self/task/0")  # of no thread
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([gone]))
    assert find_obstacle() == ""
