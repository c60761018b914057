"""Ranks of a fork server: how they are started, how they end, and who ends with whom."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from distrain.config.layout import Layout
from distrain.runs.folder import RunFolder
from launcher.backends import ranks as ranks_module
from launcher.backends.incidents import WatchedStage
from launcher.backends.local import stage_orders
from launcher.backends.starting import LOOPBACK, MeetingPlace, NodeStarter, open_place
from launcher.plan import StagePlan
from tests.launcher.small_run import ROOT
from tests.runtime_command import runtime_command

STAGE = StagePlan("train", "pretrain", (), 1, 2, 1, Layout("fsdp", 2, 1, 2), 1)
ALONE = StagePlan("train", "pretrain", (), 1, 1, 1, Layout("single", 1, 1, 1), 1)
GONE_S = 2.0

HEAD = """\
import os, signal, sys, time
rank = os.environ.get("RANK", "0")
print("I am", rank, flush=True)
"""
HANG = HEAD + "time.sleep(600)\n"


class Attempts:
    """Attempts of a stage whose ranks run a script."""

    def __init__(self, folder: Path, script: str, stage: StagePlan = STAGE) -> None:
        self.run, self.stage = RunFolder(folder / "run"), stage
        self.said: list[str] = []
        self.run.root.mkdir(parents=True, exist_ok=True)
        self.log = self.run.root / "log"
        (folder / "script.py").write_text(script)
        self.python = runtime_command(folder / "bin", folder / "script.py")
        self.starter = NodeStarter(0, self.said.append)
        self.count = 0

    def start(self):
        self.count += 1
        name = f"attempt_{self.count}"
        place = MeetingPlace(name) if self.stage is ALONE else open_place(name, LOOPBACK, 0)
        orders = stage_orders(self.run, self.stage, self.python)
        watched = WatchedStage(self.run, self.stage.name, node=0, nodes=1)
        return self.starter.start(orders, place, self.log, watched)

    def put_in_place_of_the_server(self, command: str) -> None:
        python = Path(self.python)
        case = '"-m distrain.fork_server") '
        before, _, after = python.read_text().partition(case)
        python.write_text(f"{before}{case}{command} ;; *none*) {after}")

    def pids(self, part):
        """Wait until both ranks have begun; return their process ids, by rank."""
        wait_until(lambda: not part.wait(0.02) and self.text.count("I am") >= 2 * self.count)
        return [rank.pid for rank in part._child._ranks]

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def attempts(tmp_path):
    made = []

    def make(script, stage=STAGE):
        made.append(Attempts(tmp_path, textwrap.dedent(script), stage))
        return made[-1]

    yield make
    for each in made:
        each.starter.close()


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def end_of(part, timeout_s=20.0):
    """Wait for the end; return how long it took."""
    began = time.monotonic()
    wait_until(lambda: part.wait(0.05), timeout_s)
    part.close()
    return time.monotonic() - began


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ranks_are_told_who_they_are_and_their_lines_come_together(attempts):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OF_THE_SITE")
    os.environ["OF_THE_SITE"] = "yes"
    try:
        made = attempts(HEAD + f"print(*[os.environ[n] for n in {names}])\nprint(sys.argv[1:])\n")
        part = made.start()
        end_of(part)
    finally:
        del os.environ["OF_THE_SITE"]
    assert (part.code, part.end) == (0, "exit code 0")
    assert made.said == []
    for rank in (0, 1):
        assert f"[rank {rank}] {rank} {rank} 2 2 127.0.0.1 yes\n" in made.text
        own = made.run.stage("train").rank_logs / "attempt_1" / f"{rank}.log"
        assert own.read_text().startswith(f"I am {rank}\n")
    assert f"['stage', '{made.run.root}', 'train']" in made.text


def test_a_stage_of_one_process_has_no_rank_and_writes_to_the_log_itself(attempts):
    made = attempts(HEAD + "print('RANK' in os.environ)\n", ALONE)
    part = made.start()
    end_of(part)
    assert (part.code, made.text) == (0, "I am 0\nFalse\n")


def test_a_killed_rank_is_named_and_its_peers_are_ended_at_once(attempts):
    made = attempts(HANG)
    part = made.start()
    pids = made.pids(part)
    os.kill(pids[0], signal.SIGSTOP)  # one that cannot end by itself
    os.kill(pids[1], signal.SIGKILL)
    assert end_of(part) < 1
    assert (part.code, part.end) == (-signal.SIGKILL, "rank 1: killed by SIGKILL")
    assert made.text.endswith("first to fail: rank 1 (killed by SIGKILL)\n")
    assert not any(map(is_alive, pids))


def test_a_rank_that_fails_is_named_and_its_peers_may_say_their_last_words(attempts):
    made = attempts(
        HEAD + "if rank == '1': sys.exit('the reason')\ntime.sleep(0.5)\nsys.exit('an echo')\n"
    )
    part = made.start()
    end_of(part)
    assert (part.code, part.end) == (1, "rank 1: exit code 1")
    _, _, last_words = made.text.partition("first to fail: rank 1 (exit code 1)\n")
    assert "[rank 0] an echo\n" in last_words


def test_a_rank_that_ends_well_while_others_go_on_is_a_failure(attempts, monkeypatch):
    monkeypatch.setattr(ranks_module, "EARLY_S", 0.3)
    made = attempts(HEAD + "if rank == '0': time.sleep(600)\n")
    part = made.start()
    end_of(part)
    assert part.code == 1
    assert part.end == "rank 1: exit code 0, but rank 0 went on for 0 s"


def test_a_rank_that_leaves_early_is_named_where_another_fails_of_it(attempts):
    made = attempts(HEAD + "if rank == '0':\n    time.sleep(0.5)\n    sys.exit('no peer')\n")
    part = made.start()
    end_of(part)
    assert part.code == 1
    assert part.end == "rank 1: exit code 0 while others went on; rank 0: exit code 1"


def test_ranks_that_hang_are_killed_at_once_and_the_server_forks_the_next(attempts):
    made = attempts(HANG)
    part = made.start()
    pids = made.pids(part)
    os.kill(pids[0], signal.SIGSTOP)
    part.kill()
    assert end_of(part) < 1
    assert not any(map(is_alive, pids))
    server = made.starter._server._child.pid
    again = made.start()
    assert not set(made.pids(again)) & set(pids)
    assert made.starter._server._child.pid == server
    again.close()
    assert made.said == []


def test_without_its_fork_server_nothing_is_left_and_the_next_attempt_has_another(attempts):
    made = attempts(HANG)
    part = made.start()
    pids = made.pids(part)
    os.kill(made.starter._server._child.pid, signal.SIGKILL)
    assert end_of(part) < GONE_S
    assert not any(map(is_alive, pids))
    assert part.code == 1
    assert part.end.endswith("ended with the fork server")
    again = made.start()
    assert len(made.pids(again)) == 2
    again.close()
    assert made.said == []


SUPERVISOR = """\
import sys
from pathlib import Path
from tests.launcher.backends.test_ranks import HANG, Attempts
made = Attempts(Path(sys.argv[1]), HANG)
part = made.start()
print(*made.pids(part), made.starter._server._child.pid, flush=True)
while not part.wait(1):
    pass
"""


def test_a_killed_supervisor_leaves_nothing(tmp_path):
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert supervisor.stdout is not None
    pids = [int(word) for word in supervisor.stdout.readline().split()]
    assert len(pids) == 3
    assert all(map(is_alive, pids))
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: not any(map(is_alive, pids)), GONE_S)


def test_where_no_server_can_be_started_every_process_starts_cold_and_it_is_said(attempts):
    made = attempts(HEAD + "print(os.environ['WORLD_SIZE'])\n")
    made.put_in_place_of_the_server("exit 7")
    part = made.start()
    end_of(part)
    assert part.code == 0
    assert made.text.count("I am") == 2
    (line,) = made.said
    assert line.startswith("no warm start: the fork server ended (exit code 7), see ")
    assert line.endswith("; every process imports for itself")


def test_a_server_that_never_answers_ends_the_attempt(attempts, monkeypatch):
    monkeypatch.setattr(ranks_module, "IMPORT_S", 0.3)
    made = attempts(HANG)
    made.put_in_place_of_the_server("exec sleep 600")
    part = made.start()
    end_of(part)
    assert part.code == 1
    assert part.end.startswith("the fork server said nothing for 0 s, see ")


REFUSING = """\
import sys, threading, time
from distrain import fork_server
fork_server.preload = lambda *_: threading.Thread(
    target=time.sleep, args=(600,), daemon=True).start()
sys.exit(fork_server.main())
"""


def test_a_server_that_must_not_fork_is_ended_and_holds_no_port(attempts, tmp_path):
    (tmp_path / "refusing.py").write_text(REFUSING)
    made = attempts(HEAD + "print('port', os.environ['MASTER_PORT'], flush=True)\n")
    made.put_in_place_of_the_server(f'shift 2; exec {sys.executable} {tmp_path}/refusing.py "$@"')
    part = made.start()
    end_of(part)
    (line,) = made.said
    assert line.startswith("no warm start: the fork server found threads that a fork would lose")
    assert (part.code, made.text.count("I am")) == (0, 2)
    assert not made.starter._server.is_alive
    port = int(made.text.partition("port ")[2].split()[0])
    store = open_place("again", LOOPBACK, port).store
    assert store is not None
    store.close()


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_a_rank_that_cannot_be_killed_is_told_of_and_left(attempts, monkeypatch, is_waited_for):
    made = attempts(HANG)
    part = made.start()
    pids = made.pids(part)
    with monkeypatch.context() as kernel:  # no process here can be made to wait in it
        kernel.setattr(ranks_module, "UNKILLABLE_S", 0.3)
        kernel.setattr(os, "killpg", lambda *_: None)
        kernel.setattr(signal, "pidfd_send_signal", lambda *_: None)
        part.kill()
        if is_waited_for:
            end_of(part)
        part.close()
    assert part.is_unkillable
    assert made.said[1] == (
        f"rank 1 (pid {pids[1]}) cannot be killed, it waits in the kernel (state S); "
        "restart the node"
    )
    assert (part.code, part.end) == (1, "; ".join(made.said))


OBSTACLE = """\
import sys, threading, time
from distrain.fork_server import find_obstacle
print(repr(find_obstacle()))
threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
print(find_obstacle())
import torch, torch.distributed, pyarrow
"""


def test_a_process_with_other_threads_is_not_forked():
    found = subprocess.run(
        [sys.executable, "-c", OBSTACLE], capture_output=True, text=True, check=True
    )
    none, threads = found.stdout.splitlines()
    assert none == "''"
    assert threads.startswith("threads that a fork would lose: python")
