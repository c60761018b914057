"""How one node starts its part of a stage's attempts: ranks of a fork server, or one command.

Ranks of training stages are forked (``distrain/fork_server.py``), by a server that outlives the
attempts. Other stages are one process each, and start as a command. So does what an older version
has queued, which is torchrun.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distrain.errors import PreflightError
from launcher.backends.fork_server import ForkServer, RankOrder
from launcher.backends.incidents import WatchedStage
from launcher.backends.orders import StageOrders
from launcher.backends.processes import Child
from launcher.backends.ranks import ForkedRanks, RanksToStart
from launcher.backends.watched import Watched

LOOPBACK = "127.0.0.1"
TAKEN_S = 5.0
"""How long a port of the last start may still be held by what is being killed."""


@dataclass(frozen=True)
class MeetingPlace:
    """Where the ranks of one start meet."""

    id: str
    """Of the start: fresh for each."""
    host: str = LOOPBACK
    """Reachable from all nodes."""
    port: int = 0
    store: socket.socket | None = None
    """Listens there; held by the first node alone."""


def open_place(start_id: str, host: str, port: int) -> MeetingPlace:
    """Listen where the ranks of a start shall meet.

    Args:
        start_id: Of the start.
        host: As the ranks address this node; the loopback address if they are all here.
        port: Fixed, where only one is let through to this node; 0: any free one.

    Raises:
        PreflightError: The port is taken.
    """
    # Where the system can, of both kinds of addresses: a host's name may stand for either.
    both = host != LOOPBACK and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    address = (LOOPBACK if host == LOOPBACK else "", port)
    deadline = time.monotonic() + TAKEN_S
    while True:
        try:
            store = socket.create_server(address, family=family, backlog=4096, dualstack_ipv6=both)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise PreflightError(
                    "launch.rendezvous",
                    f"port {port}, where nothing can listen ({error.strerror})",
                    "a free port of the first node",
                    "End what uses it, or name another port.",
                ) from error
        time.sleep(0.1)
    return MeetingPlace(start_id, host, store.getsockname()[1], store)


class NodeStarter:
    """Starts the attempts of stages on this node, of one stage after the other.

    Args:
        node: Its number, that of its place in a start or another one.
        say: Shows a line to the user.
    """

    def __init__(self, node: int, say: Callable[[str], None]) -> None:
        self._node = node
        self._say = say
        self._server: ForkServer | None = None
        self._stage = ""
        """Which the server is for."""

    def start(
        self, orders: StageOrders, place: MeetingPlace, log: Path | None, watched: WatchedStage
    ) -> Watched:
        """Begin an attempt, whose output goes to ``log``, or to where this process writes."""
        return Watched(
            lambda env: self._start(orders, place, log, env, watched.node),
            os.environ | orders.env,
            watched,
        )

    def warm(self, orders: StageOrders) -> None:
        """Have the fork server import, so that it is ready when this node takes part."""
        if orders.is_forked:
            self._living_server(orders, _with_threads(os.environ | orders.env, orders))

    def _start(
        self,
        orders: StageOrders,
        place: MeetingPlace,
        log: Path | None,
        env: Mapping[str, str],
        number: int,
    ) -> Child | ForkedRanks:
        if not orders.is_forked:
            return Child(orders.command(place.id), env, log)
        env = _with_threads(env, orders)
        here = orders.processes_per_node
        files = Path(orders.logs) / place.id
        alone = orders.world_size == 1
        ranks = range(number * here, (number + 1) * here)
        wanted = RanksToStart(
            [
                RankOrder(
                    env if alone else env | _rank_env(orders, rank, place),
                    log if alone and log is not None else files / f"{rank}.log",
                    holds_store=rank == 0 and place.store is not None,
                )
                for rank in ranks
            ],
            orders.cold_command,
            [None] if alone else list(ranks),
            log,
            place.store,
        )
        return ForkedRanks(wanted, self._living_server(orders, env), self._say)

    def close(self) -> None:
        """End the fork server."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _living_server(self, orders: StageOrders, env: dict[str, str]) -> ForkServer:
        if self._server is not None and not (self._server.is_alive and self._stage == orders.name):
            self.close()
        if self._server is None:
            self._stage = orders.name
            output = Path(orders.logs) / f"fork_server-{self._node}.log"
            # Threads of OpenBLAS would be lost at a fork, and nobody here multiplies with numpy.
            # CUDA's own way of counting devices would spoil it for the ranks.
            own = {"OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
            self._server = ForkServer(orders.argv, env | own, output)
        return self._server


def _with_threads(env: Mapping[str, str], orders: StageOrders) -> dict[str, str]:
    """Add how many threads each of several ranks takes, where the user does not say."""
    if orders.processes_per_node == 1:
        return dict(env)
    # They would all use all cores; and the number of threads decides about last bits.
    return {"OMP_NUM_THREADS": "1", **env}


def _rank_env(orders: StageOrders, rank: int, place: MeetingPlace) -> dict[str, str]:
    """What torchrun tells a rank, so that libraries find it."""
    here = orders.processes_per_node
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % here),
        "WORLD_SIZE": str(orders.world_size),
        "LOCAL_WORLD_SIZE": str(here),
        "GROUP_RANK": str(rank // here),
        "GROUP_WORLD_SIZE": str(orders.nodes),
        "MASTER_ADDR": place.host,
        "MASTER_PORT": str(place.port),
        "TORCHELASTIC_RUN_ID": place.id,
        "TORCHELASTIC_USE_AGENT_STORE": "False",  # as it may be where torchrun starts us
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }
