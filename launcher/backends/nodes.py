"""A run over several nodes that share its folder: how they agree on each start of a stage.

The first node decides. It writes ``start.json`` with the start's number and a rendezvous id that no
start had before; every other node says in ``nodes/<n>.json`` that it is ready, and starts its part;
once all are, the first node starts its own. A node whose part fails says so there. Once a start is
over for the first node, ``start.json`` tells that, and the others end what they still run of it;
then comes a new start, or the end of the run. Nothing but the shared folder is needed, and no
clock.
"""

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distrain.errors import ExitCode, TrainingError
from distrain.runs.folder import RunFolder
from distrain.runs.records import is_done, read_json, read_state, utc_now, write_json
from launcher.backends.interrupt import Interruptions
from launcher.backends.orders import Orders, StageOrders
from launcher.backends.processes import Child
from launcher.backends.restart import LATE_S

LOOK_S = 0.2
"""Between two looks at what the others wrote."""
PATIENCE_S = 600.0
"""How long nodes wait for each other between two starts; as torchrun waits at a rendezvous."""
GRACE_S = 10.0
"""How long the first node's processes may take to end by themselves once another's have failed:
their own last words say more than that they were killed."""


class FirstNode:
    """The first node's side of all starts of a run.

    Args:
        run: Folder of the run.
        orders: What is started; the other nodes read them in the run's folder.
        say: Shows a line to the user.
    """

    def __init__(self, run: RunFolder, orders: Orders, say: Callable[[str], None]) -> None:
        self._run = run
        self._orders = orders
        self._say = say

    def start(self, stage: str, log: Path) -> "FirstNodesProcesses":
        """Announce a start, and begin it here as soon as the others are ready."""
        orders = self._orders.stage(stage)
        number = int((read_json(self._run.start) or {"number": 0})["number"]) + 1
        start_id = f"{self._run.root.name}-{stage}-{number}-{secrets.token_hex(4)}"
        record = {"number": number, "stage": stage, "id": start_id, "time": utc_now()}
        write_json(self._run.start, record)
        others = range(1, orders.nodes)
        return FirstNodesProcesses(self._run, orders, start_id, others, (log, self._say))

    def end(self, code: ExitCode) -> None:
        """Tell the others that no further start comes."""
        record = read_json(self._run.start) or {"number": 0, "stage": "", "id": ""}
        record.pop("over", None)
        write_json(self._run.start, record | {"end": int(code), "time": utc_now()})


class FirstNodesProcesses:
    """One attempt as the first node sees it (``supervise.Processes``)."""

    def __init__(
        self,
        run: RunFolder,
        orders: StageOrders,
        start_id: str,
        others: range,
        shown: tuple[Path, Callable[[str], None]],
    ) -> None:
        self._run = run
        self._orders = orders
        self._id = start_id
        self._others = others
        self._log, self._say = shown
        self._child: Child | None = None
        self._ended = ""
        self._deadline = time.monotonic() + PATIENCE_S
        self._asked_for: list[int] = []
        self._before = read_state(run.stage(orders.name))

    @property
    def end(self) -> str:
        """How it ended: what another node said of itself goes first."""
        return self._ended or (self._child.end if self._child is not None else "not started")

    def wait(self, timeout_s: float) -> bool:
        """Wait for the others first, then for the end."""
        until = time.monotonic() + timeout_s
        while True:
            left_s = min(max(until - time.monotonic(), 0), LOOK_S)
            if self._child is None:
                if self._may_not_begin():
                    return True
                time.sleep(left_s)
            elif self._child.wait(left_s):
                self._ended = self._ended or self._failed()
                if self._child.code != 0 or self._is_recorded():
                    return True
                time.sleep(left_s)
            else:
                self._end_what_is_left()
            if time.monotonic() >= until:
                return False

    def kill(self) -> None:
        """End this node's part; the others end theirs with the next word of this one."""
        if self._child is not None:
            self._child.kill()
        self._ended = self._ended or "killed"

    def close(self) -> None:
        """Leave no process on any node."""
        if self._child is not None:
            self._child.close()
        record = read_json(self._run.start)
        if self._others and record is not None:
            # At once: a rank that hangs there may hold the stage's lock, without which there is no
            # next start. A full disk is told of by whoever needs it for more.
            with suppress(OSError):
                write_json(self._run.start, record | {"over": True})

    def _is_recorded(self) -> bool:
        """Whether an attempt that ended well has its record, or is not going to be seen with one.

        Rank 0 writes it, which may be on another node.
        """
        self._deadline = min(self._deadline, time.monotonic() + LATE_S)
        state = read_state(self._run.stage(self._orders.name))
        has_ended = state is not None and state["state"] in ("done", "stopped")
        return (has_ended and state != self._before) or time.monotonic() > self._deadline

    def _may_not_begin(self) -> bool:
        """Begin if all others are ready; tell whether the attempt is over without having begun."""
        missing = [node for node in self._others if _word_of(self._run, node, self._id) is None]
        if not missing:
            argv, env = self._orders.command(self._id), os.environ | self._orders.env
            self._child = Child(argv, env, self._log)
            self._deadline = float("inf")
            return False
        who = f"node {', '.join(map(str, missing))}"
        if missing != self._asked_for:
            self._asked_for = missing
            self._say(f"{self._orders.name}: waits for {who}")
        if not self._ended and (self._run.stop.exists() or self._run.yield_.exists()):
            self._ended = "not begun"
        if not self._ended and time.monotonic() > self._deadline:
            self._ended = f"no word of {who} within {PATIENCE_S:.0f} s"
        return bool(self._ended)

    def _end_what_is_left(self) -> None:
        """Once another node has failed, end this one's part: it can only wait for that node."""
        if not self._ended:
            self._ended = self._failed()
            self._deadline = time.monotonic() + GRACE_S
        elif time.monotonic() > self._deadline and self._child is not None:
            self._child.kill()

    def _failed(self) -> str:
        """Return which other node failed and how; empty if none did."""
        words = {node: _word_of(self._run, node, self._id) for node in self._others}
        return next((f"node {node}: {word}" for node, word in words.items() if word), "")


class OtherNode:
    """The side of any node but the first.

    Args:
        run: Folder of the run.
        node: Its number, from 1.
        patience_s: How long it waits for a new start once its part of the last one failed.
    """

    def __init__(self, run: RunFolder, node: int, patience_s: float = PATIENCE_S) -> None:
        self._run = run
        self._node = node
        self._patience_s = patience_s
        self._deadline = float("inf")

    def run(self) -> ExitCode:
        """Take part in every start until the first node says that it was the last.

        Returns:
            The end that the first node told, or ``STOPPED`` or ``INTERRUPTED`` after signals.

        Raises:
            TrainingError: The first node says nothing any more.
        """
        start = read_json(self._run.start)
        past = start if start is not None and "end" in start else None  # of an earlier run
        with Interruptions(self._run) as interruptions:
            while True:
                start = read_json(self._run.start)
                if start is not None and start != past and self._is_to_join(start):
                    if "end" in start:
                        return ExitCode(start["end"])
                    self._take_part(start, interruptions)
                    past = start
                elif self._all_done():
                    return ExitCode.DONE
                elif interruptions.count:
                    return ExitCode.INTERRUPTED if interruptions.kill else ExitCode.STOPPED
                elif time.monotonic() > self._deadline:
                    raise self._left_alone(start)
                else:
                    time.sleep(LOOK_S)

    def _is_to_join(self, start: dict[str, Any]) -> bool:
        """Whether there is something to do: take part in a start, or end with the run."""
        if "end" in start or "over" in start:
            return "end" in start
        orders = Orders.read(self._run)
        # A run that was killed leaves a start without an end, maybe of a stage that is not due now.
        return orders is not None and any(s.name == start["stage"] for s in orders.stages)

    def _take_part(self, start: dict[str, Any], interruptions: Interruptions) -> None:
        orders = Orders.read(self._run)
        assert orders is not None, "written before any start"
        stage = orders.stage(start["stage"])
        self._deadline = float("inf")
        if stage.nodes == 1:
            return
        self._tell(start, "")
        child = Child(stage.command(start["id"]), os.environ | stage.env, None)
        try:
            while not child.wait(LOOK_S):
                # A start that is over for the first node can only hang here.
                if interruptions.kill or read_json(self._run.start) != start:
                    child.kill()
        finally:
            child.close()
        if child.code != 0:
            self._tell(start, child.end)
            self._deadline = time.monotonic() + self._patience_s

    def _tell(self, start: dict[str, Any], end: str) -> None:
        write_json(self._run.node(self._node), {"id": start["id"], "end": end})

    def _all_done(self) -> bool:
        orders = Orders.read(self._run)
        return orders is not None and all(is_done(self._run, s.name) for s in orders.stages)

    def _left_alone(self, start: dict[str, Any] | None) -> TrainingError:
        return TrainingError(
            f"node {self._node}",
            f"no word of the first node for {self._patience_s:.0f} s, after start "
            f"{start['number'] if start else 0} failed here",
            "a new start, or the end of the run",
            f"Look at the first node; when it runs again, type this node's command again. "
            f"`distrain status {self._run.root.name}` tells how far the run is.",
        )


def _word_of(run: RunFolder, node: int, start_id: str) -> str | None:
    """Return how a node's part of a start ended; empty while it runs, ``None`` before it began."""
    told = read_json(run.node(node))
    return None if told is None or told["id"] != start_id else str(told["end"])
