"""Forks the ranks of a stage: ``python -m distrain.fork_server RUN STAGE --socket FD``.

A child of the node's supervisor, it imports what the ranks need, once for all of a node and for all
attempts, and forks them when it is told to. So a rank that takes the place of another one begins
at once. It ends with its supervisor, and its ranks end with it.

It is asked in lines of JSON over an inherited socket, and answers each with one line:

    {"env": {...}, "fork": [{"env": {...}, "output": "file", "store": true}, ...]}
                   ->  {"pids": [...]}
    {"reap": pid}  ->  {"reaped": pid, "code": 1}

The first ``env`` and its own are all the environment that a rank gets; ``store`` says who is given
the listening socket that came along with the line. ``{"error": "..."}`` is the answer where nothing
was forked. Nobody is reaped who was not asked for, so that a process id stays valid as long as its
supervisor uses it.
"""

import argparse
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from distrain.garbage import no_collections
from distrain.runs.parent import dying_with
from distrain.runs.rank_env import STORE_FD

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What is sent to a whole job step is meant for the ranks."""
THREADS = frozenset({"jemalloc_bg_thd"})
"""Native threads that may be there at a fork: their libraries begin them anew in the child."""
TOUCH_GPUS = ("bitsandbytes", "peft.tuners.lora.bnb", "triton")
"""Ask a GPU what it is as they are imported: left to the ranks where there is one."""


class Reporting(MetaPathFinder):
    """Finds no module, but reports every one that this rank imports by itself.

    The server imports it, too, for those that come after.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Report a module that is about to be looked for."""
        with suppress(OSError):  # the pipe is full: another rank will report it
            os.write(self._pipe, f"{name}\n".encode())


class Server:
    """What is imported, and who was forked.

    Args:
        requests: The supervisor's socket.
        argv: Arguments of ``python -m distrain`` for every rank.
    """

    def __init__(self, requests: socket.socket, argv: Sequence[str]) -> None:
        self._requests = requests
        self._argv = list(argv)
        self._pid = os.getpid()
        self._line = b""
        self._received: list[int] = []
        self._reports, self._reporting = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._due: deque[str] = deque()
        self._has_forked = False
        self._handlers = {number: signal.signal(number, signal.SIG_IGN) for number in IGNORED}

    def preload(self, modules: Sequence[str], later: Sequence[str]) -> None:
        """Import ``modules`` now, and ``later`` after the first fork."""
        for name in modules:
            self._import(name)
        self._due.extend(later)

    def serve(self) -> int | None:
        """Answer until the supervisor hangs up.

        Returns:
            In a rank its exit code; ``None`` in the server, at its end.
        """
        poll = select.poll()
        poll.register(self._requests, select.POLLIN)
        poll.register(self._reports, select.POLLIN)
        while True:
            is_idle = not (self._due and self._has_forked)
            # What came along with the line before it makes no socket readable any more.
            is_asked = b"\n" in self._line
            patience = None if is_idle and not is_asked else 0
            ready = {descriptor for descriptor, _ in poll.poll(patience)}
            if is_asked or self._requests.fileno() in ready:
                request = self._receive()
                if request is None:
                    return None
                if "fork" not in request:
                    self._reap(request["reap"])
                elif (code := self._fork(request["fork"], request["env"])) is not None:
                    return code
            elif self._reports in ready:
                names = os.read(self._reports, 1 << 16).decode().split()
                self._due.extend(name for name in names if name not in sys.modules)
            elif not is_idle:
                self._import(self._due.popleft())

    def _receive(self) -> dict[str, Any] | None:
        while b"\n" not in self._line:
            data, descriptors, _, _ = socket.recv_fds(self._requests, 1 << 16, 1)
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            self._received += descriptors
            if not data:
                return None
            self._line += data
        text, _, self._line = self._line.partition(b"\n")
        request: dict[str, Any] = json.loads(text)
        return request

    def _answer(self, **answer: object) -> None:
        self._requests.sendall(json.dumps(answer).encode() + b"\n")

    def _reap(self, pid: int) -> None:
        self._answer(reaped=pid, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def _import(self, name: str) -> None:
        if name in sys.modules or (name.startswith(TOUCH_GPUS) and _has_gpu()):
            return
        # What is not there, or not to be imported, is the ranks' own affair.
        with suppress(Exception), no_collections():
            importlib.import_module(name)

    def _fork(self, orders: Sequence[Mapping[str, Any]], env: Mapping[str, str]) -> int | None:
        while self._due and self._has_forked:  # what was learned of the last attempt
            self._import(self._due.popleft())
        obstacle = find_obstacle()
        if obstacle:
            self._close_received()  # else nobody else could listen there
            self._answer(error=obstacle)
            return None
        gc.freeze()  # else the first collection of every rank writes to all pages it shares
        sys.stdout.flush()
        sys.stderr.flush()
        pids = []
        for order in orders:
            pid = os.fork()
            if pid == 0:
                return self._be_rank(order, {**env, **order["env"]})
            pids.append(pid)
        self._has_forked = True
        self._close_received()
        self._answer(pids=pids)
        return None

    def _be_rank(self, order: Mapping[str, Any], env: Mapping[str, str]) -> int:
        """Become a rank, as if this process had been started for it; return its exit code."""
        dying_with(self._pid)()
        os.setsid()  # what it starts is killed with it
        with suppress(OSError):  # for whoever looks at the processes of this machine
            Path("/proc/self/comm").write_text(f"rank {env.get('RANK', '0')}")
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        output = os.open(order["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        self._requests.close()
        os.close(self._reports)
        os.environ.clear()
        os.environ.update(env)
        if order.get("store"):
            os.environ[STORE_FD] = str(self._received.pop())
        self._close_received()
        _seed_anew()
        sys.meta_path.insert(0, Reporting(self._reporting))
        sys.argv = [sys.argv[0], *self._argv]
        return run_rank(self._argv)

    def _close_received(self) -> None:
        for descriptor in self._received:
            os.close(descriptor)
        self._received.clear()


def find_obstacle() -> str:
    """Say why this process must not be forked; empty if it may."""
    mine, threads = str(os.getpid()), set[str]()
    for task in Path("/proc/self/task").iterdir():
        if task.name != mine:
            with suppress(OSError):  # it has ended meanwhile
                threads.add(task.joinpath("comm").read_text().strip())
    if threads - THREADS:
        return f"threads that a fork would lose: {', '.join(sorted(threads - THREADS))}"
    torch = sys.modules.get("torch")
    # Asking for the number of devices initializes the driver, and spoils it for a child.
    if torch is not None and (torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork()):
        return "CUDA initialized"
    return ""


def _has_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())  # by NVML: it touches none


def run_rank(argv: list[str]) -> int:
    """Do what ``python -m distrain`` does; its module is imported by then."""
    from distrain.__main__ import main as run

    return run(argv)


def _seed_anew() -> None:
    """Let generators without a seed of the stage differ, as those of fresh processes do."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def main(argv: list[str] | None = None) -> int:
    """Serve, or be a rank; returns the exit code of either."""
    parser = argparse.ArgumentParser(prog="python -m distrain.fork_server", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("stage")
    parser.add_argument("--ranks", type=int, required=True, help="of the stage, on all nodes")
    parser.add_argument("--socket", type=int, required=True, help="descriptor that is inherited")
    arguments, others = parser.parse_known_args(argv)
    requests = socket.socket(fileno=arguments.socket)
    server = Server(requests, ["stage", str(arguments.run), arguments.stage, *others])
    preload(server, arguments.run, arguments.stage, arguments.ranks)
    return server.serve() or 0


def preload(server: Server, run: Path, name: str, ranks: int) -> None:
    """Have a server import what the ranks of a stage will need."""
    with no_collections():
        from distrain.config.layout import resolve_layout
        from distrain.config.reading.load import read_resolved
        from distrain.config.recipe import TrainStage
        from distrain.runs.folder import RunFolder
        from distrain.stages.imports import first_modules, import_family, late_modules
    recipe = read_resolved(RunFolder(run).resolved)
    stage = recipe.stages[name]
    assert isinstance(stage, TrainStage), "only their ranks are forked"
    layout = resolve_layout(stage.parallelism, ranks)
    modules, later = first_modules(stage, stage.kind, layout), late_modules(stage)
    if ranks > 1:
        # Once here, instead of once in each rank; one that is alone begins with its first step.
        modules, later = [*modules, *later], []
    server.preload(["distrain.__main__", *modules], later)
    with suppress(Exception), no_collections():  # a mistake in it is met, and told, by the ranks
        import_family(recipe, name)


if __name__ == "__main__":
    sys.exit(main())
