"""A node of several, but not the first: it follows what that one writes (``nodes.py``)."""

import sys
import time
from contextlib import closing
from dataclasses import asdict
from typing import Any

from distrain.errors import ExitCode, TrainingError
from distrain.runs.folder import NodeFiles, RunFolder
from distrain.runs.records import is_done, read_json, write_json
from distrain.runs.strikes import this_node
from launcher.backends.beats import SILENCE_S, Pulse, Watch
from launcher.backends.blame import NodeFailure
from launcher.backends.incidents import WatchedStage
from launcher.backends.interrupt import Interruptions
from launcher.backends.nodes import LOOK_S, PATIENCE_S
from launcher.backends.orders import Orders
from launcher.backends.starting import MeetingPlace, NodeStarter


class OtherNode:
    """The side of any node but the first.

    Args:
        run: Folder of the run.
        meeting: Where the nodes agree.
        node: Its number, from 1.
        patience_s: How long the first node may give no sign of life; it may be started again.
        unheard_s: The same before its first sign; by default nodes are started in any order.
    """

    def __init__(
        self,
        run: RunFolder,
        meeting: NodeFiles,
        node: int,
        patience_s: float = PATIENCE_S,
        unheard_s: float = float("inf"),
    ) -> None:
        self._run = run
        self._meeting = meeting
        self._node = node
        self._patience_s = patience_s
        self._unheard_s = unheard_s
        self._pulse = Pulse(meeting.beat(node))
        self._first = Watch(meeting.beat(0))
        self._has_joined = False
        self._has_failed = False
        """Whether its part of the last start it took part in did."""
        self._starter = NodeStarter(node, _say)

    def run(self, interruptions: Interruptions) -> ExitCode:
        """Take part in every start until the first node says that it was the last.

        Returns:
            The end that the first node told, or ``STOPPED`` or ``INTERRUPTED`` after signals.

        Raises:
            TrainingError: The first node is gone.
        """
        with closing(self._starter):
            code = self._follow(interruptions)
        assert code is not None, "only a member of a job with spares becomes the first node"
        return code

    def _follow(self, interruptions: Interruptions) -> ExitCode | None:
        start = read_json(self._meeting.start)
        past = start if start is not None and "end" in start else None  # of an earlier run
        while True:
            self._look_around()
            start = read_json(self._meeting.start)
            if start is not None and start != past and self._is_to_join(start):
                if "end" in start:
                    return ExitCode(start["end"])
                self._take_part(start, interruptions)
                past = start
            elif self._all_done():
                return ExitCode.DONE
            elif interruptions.count:
                return ExitCode.INTERRUPTED if interruptions.kill else ExitCode.STOPPED
            elif self._is_alone():
                self._go_alone(start)
                return None
            else:
                time.sleep(LOOK_S)

    def _look_around(self) -> None:
        """Do what is done all the time."""
        self._pulse.beat()

    def _place_in(self, start: dict[str, Any]) -> int | None:
        """Return the place of this node in a start; ``None``: it has none."""
        return self._node

    def _is_to_join(self, start: dict[str, Any]) -> bool:
        """Whether there is something to do: take part in a start, or end with the run."""
        if "end" in start or "over" in start:
            return "end" in start
        orders = Orders.read(self._meeting)
        # A run that was killed leaves a start without an end, maybe of a stage that is not due now.
        return orders is not None and any(s.name == start["stage"] for s in orders.stages)

    def _take_part(self, start: dict[str, Any], interruptions: Interruptions) -> None:
        orders = Orders.read(self._meeting)
        assert orders is not None, "written before any start"
        stage = orders.stage(start["stage"])
        self._has_joined = True
        number = self._place_in(start)
        if number is None or number >= stage.nodes:
            return
        self._tell(start, "", ended=False)
        place = MeetingPlace(start["id"], start.get("host", ""), start.get("port", 0))
        watched = WatchedStage(self._run, stage.name, number, stage.nodes)
        child = self._starter.start(stage, place, None, watched)
        try:
            while not child.wait(LOOK_S):
                self._look_around()
                # A start that is over for the first node, or without it, can only hang here.
                is_over = read_json(self._meeting.start) != start
                if interruptions.kill or is_over or self._first.look() > SILENCE_S:
                    child.kill()
        finally:
            child.close()
        self._has_failed = child.code != 0
        end = child.end if self._has_failed else ""
        self._tell(start, end, ended=True, failure=child.failure)

    def _tell(
        self,
        start: dict[str, Any],
        end: str,
        *,
        ended: bool,
        failure: NodeFailure | None = None,
    ) -> None:
        word = {
            "id": start["id"],
            "end": end,
            "ended": ended,
            "node": this_node(),
            "failure": failure and asdict(failure),
        }
        write_json(self._meeting.word(self._node), word)

    def _all_done(self) -> bool:
        orders = Orders.read(self._meeting)
        return orders is not None and all(is_done(self._run, s.name) for s in orders.stages)

    def _is_alone(self) -> bool:
        was_there = self._has_joined or self._first.is_heard
        return self._first.look() > (self._patience_s if was_there else self._unheard_s)

    def _go_alone(self, start: dict[str, Any] | None) -> None:
        raise TrainingError(
            f"node {self._node}",
            f"no word of the first node for {self._first.silent_s:.0f} s, after start "
            f"{start['number'] if start else 0}",
            "a new start, or the end of the run",
            f"Look at the first node; when it runs again, start this node again, too. "
            f"`distrain status {self._run.root.name}` tells how far the run is.",
        )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
