"""Several nodes that share a folder: how they agree on each start of a stage.

The first node decides. It writes ``start.json`` with the start's number, an id that no start had
before, and host and port where its ranks meet; every other node says in ``nodes/<n>.json`` that it
is ready, and starts its part; once all are, the first node starts its own. A node whose part fails
says so there. Once a start is over for the first node, ``start.json`` tells that, and the others
end what they still run of it and say so; then comes a new start, or the end of the run. Each gives
signs of life (``beats.py``), so that one which hangs or is gone is not waited for. Nothing but the
shared folder is needed, and no clock.

Where there are spares, ``start.json`` also says which node fills which place (``roster.py``), and
another node may become the first one (``terms.py``).
"""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from distrain.errors import ExitCode
from distrain.runs.folder import NodeFiles, RunFolder
from distrain.runs.records import append_event, read_json, read_state, utc_now, write_json
from launcher.backends.beats import QUIET_S, SILENCE_S, Pulse, Watch
from launcher.backends.blame import NodeFailure
from launcher.backends.incidents import WatchedStage
from launcher.backends.members import Members, Standing, watch_members
from launcher.backends.orders import Orders, StageOrders
from launcher.backends.restart import LATE_S
from launcher.backends.starting import LOOPBACK, MeetingPlace, NodeStarter, open_place
from launcher.backends.terms import ReplacedError, Term
from launcher.backends.watched import Watched

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
        meeting: Where the nodes agree.
        orders: What is started; the other nodes read them there.
        say: Shows a line to the user.
        can_return: Whether a node that is gone may be started again, as by a user, and so is
            waited for.
        standing: Of a job with spares: as whom this node decides.
    """

    def __init__(
        self,
        run: RunFolder,
        meeting: NodeFiles,
        orders: Orders,
        say: Callable[[str], None],
        *,
        can_return: bool = True,
        standing: Standing | None = None,
    ) -> None:
        self.run = run
        self.meeting = meeting
        self.say = say
        self.can_return = can_return
        self.replaces = standing is not None
        """Whether spares take the places of nodes that are gone."""
        standing = standing or Standing(
            Term(), NodeStarter(0, say), Pulse(meeting.beat(0)), watch_members(meeting, orders, 0)
        )
        self.pulse, self.watches = standing.pulse, standing.watches
        self.members = Members(meeting, orders, standing)
        self._term = standing.term
        self._orders = orders
        self.starter = standing.starter

    def start(self, stage: str, log: Path | None) -> "FirstNodesProcesses":
        """Announce a start, and begin it here as soon as the others are ready.

        Raises:
            ReplacedError: This node is not the first one any more.
        """
        self.require_office()
        orders = self._orders.stage(stage)
        fields: dict[str, object] = {}
        if self.replaces:
            self._fill_places(stage)
            fields = {"roster": self.members.roster, "gone": sorted(self.members.gone)}
        number = int((read_json(self.meeting.start) or {"number": 0})["number"]) + 1
        start_id = f"{self.run.root.name}-{stage}-{number}-{secrets.token_hex(4)}"
        place = MeetingPlace(start_id)
        if orders.is_forked and orders.world_size > 1:
            alone = orders.nodes == 1
            host, port = (LOOPBACK, 0) if alone else (self._orders.host, self._orders.port)
            place = open_place(start_id, host, port)
        record = {"number": number, "stage": stage, "id": start_id, "time": utc_now()}
        record |= {"host": place.host, "port": place.port}
        write_json(self.meeting.start, record | fields)
        return FirstNodesProcesses(self, orders, place, log)

    def end(self, code: ExitCode, **last: object) -> None:
        """Tell the others that no further start comes, and more to who looks at it later."""
        self.starter.close()
        record = read_json(self.meeting.start) or {"number": 0, "stage": "", "id": ""}
        record.pop("over", None)
        write_json(self.meeting.start, record | {"end": int(code), "time": utc_now()} | last)

    def require_office(self) -> None:
        """Look whether this node is still the first one.

        Raises:
            ReplacedError: Another one took its place while it was silent.
        """
        if self.replaces and Term.newest(self.meeting, self._term) != self._term:
            raise ReplacedError(self._term.member)

    def look_at_spares(self) -> None:
        """Give up those in reserve that are gone; nothing else follows from it."""
        if not self.replaces:
            return
        for member in self.members.silent_spares(SILENCE_S):
            name = self.members.name(member)
            self.say(f"spare {name}: no sign of life for {SILENCE_S:.0f} s, it is given up")
            with suppress(OSError):
                append_event(self.run.events, "spare_lost", self._orders.stages[0].name, node=name)

    def _fill_places(self, stage: str) -> None:
        for left, came in self.members.fill():
            names = {"node": self.members.name(left), "spare": self.members.name(came)}
            self.say(f"{stage}: {names['spare']} takes the place of {names['node']}")
            append_event(self.run.events, "node_replaced", stage, **names)


class FirstNodesProcesses:
    """One attempt as the first node sees it (``supervise.Processes``)."""

    def __init__(
        self, first: FirstNode, orders: StageOrders, place: MeetingPlace, log: Path | None
    ) -> None:
        self.is_lost = False
        """Whether a node is gone, with its part."""
        self._first = first
        self._orders = orders
        self._id = place.id
        self._place = place
        self._log = log
        self._others = first.members.others(orders.nodes)
        self._child: Watched | None = None
        self._ended = ""
        self._is_killed = False
        self._deadline = time.monotonic() + PATIENCE_S
        self._asked_for: list[int] = []
        self._before = read_state(first.run.stage(orders.name))
        self._gone: list[int] = []

    @property
    def may_go_on(self) -> bool:
        """Whether nodes are gone, and spares can take their places; after ``close``."""
        is_fit = self._child is None or not self._child.is_unkillable
        return bool(self._gone) and is_fit and self._first.members.can_go_on()

    @property
    def failures(self) -> list[NodeFailure]:
        """How it failed on each node on which it did, as each tells it; after ``close``."""
        own = self._child.failure if self._child is not None else None
        failures = [] if own is None else [own]
        for node in self._others:
            word = read_json(self._first.meeting.word(node))
            if word is None or word["id"] != self._id:
                continue
            if node in self._gone:
                failures.append(NodeFailure(word["node"], "silent", how=self._ended))
            elif word["failure"] is not None:
                failures.append(NodeFailure(**word["failure"]))
        return failures

    @property
    def end(self) -> str:
        """How it ended: what another node said of itself goes first."""
        return self._ended or (self._child.end if self._child is not None else "not started")

    def wait(self, timeout_s: float) -> bool:
        """Wait for the others first, then for the end."""
        until = time.monotonic() + timeout_s
        while True:
            self._first.pulse.beat()
            self._first.look_at_spares()
            self._require_office()
            left_s = min(max(until - time.monotonic(), 0), LOOK_S)
            if self._child is None:
                if self._may_not_begin():
                    return True
                time.sleep(left_s)
            elif self._child.wait(left_s):
                self._ended = self._ended or self._child.halted or self._failed()
                if self._child.code != 0 or self._is_recorded():
                    self._require_office()  # its ranks end, too, when it was replaced
                    return True
                time.sleep(left_s)
            else:
                self._end_what_is_left()
            if time.monotonic() >= until:
                return False

    def kill(self) -> None:
        """End this node's part; the others end theirs with the next word of this one."""
        self._is_killed = True
        if self._child is not None:
            self._child.kill()
        self._ended = self._ended or "killed"

    def close(self) -> None:
        """Leave no process on any node."""
        if self._child is not None:
            self._child.close()
            # Where another node can take its place; else attempts count, and come to an end.
            self.is_lost |= self._child.is_unkillable and not self._first.can_return
        elif self._place.store is not None:
            self._place.store.close()
        record = read_json(self._first.meeting.start)
        if not self._others or record is None:
            return
        # At once: a rank that hangs there may hold the stage's lock, without which there is no
        # next start. A full disk is told of by whoever needs it for more.
        with suppress(OSError):
            write_json(self._first.meeting.start, record | {"over": True})
            if self._child is not None and self._child.code != 0 and not self._is_killed:
                self._await_others()

    def _require_office(self) -> None:
        try:
            self._first.require_office()
        except ReplacedError:
            self.kill()
            raise

    def _await_others(self) -> None:
        """See whether the others live: ranks here fail, too, when a whole node dies."""
        deadline = time.monotonic() + PATIENCE_S
        while left := [node for node in self._others if not self._has_ended(node)]:
            if self.is_lost or self._silence(left, self._quiet_s) or time.monotonic() > deadline:
                return
            self._first.require_office()
            self._first.pulse.beat()
            time.sleep(LOOK_S)

    def _is_recorded(self) -> bool:
        """Whether an attempt that ended well has its record, or is not going to be seen with one.

        Rank 0 writes it, which may be on another node.
        """
        self._deadline = min(self._deadline, time.monotonic() + LATE_S)
        state = read_state(self._first.run.stage(self._orders.name))
        has_ended = state is not None and state["state"] in ("done", "stopped")
        return (has_ended and state != self._before) or time.monotonic() > self._deadline

    def _may_not_begin(self) -> bool:
        """Begin if all others are ready; tell whether the attempt is over without having begun."""
        run = self._first.run
        missing = [node for node in self._others if self._word(node) is None]
        if not missing:
            watched = WatchedStage(run, self._orders.name, node=0, nodes=self._orders.nodes)
            self._child = self._first.starter.start(self._orders, self._place, self._log, watched)
            self._deadline = float("inf")
            return False
        who = f"node {', '.join(map(self._label, missing))}"
        if missing != self._asked_for:
            self._asked_for = missing
            self._first.say(f"{self._orders.name}: waits for {who}")
        if run.stop.exists() or run.yield_.exists():
            self._ended = self._ended or "not begun"
        elif not self._first.can_return:
            self._silence(missing, self._quiet_s)
        if not self._ended and time.monotonic() > self._deadline:
            self._ended = f"no word of {who} within {PATIENCE_S:.0f} s"
            if self._first.replaces:
                self._give_up(missing)
        return bool(self._ended)

    def _end_what_is_left(self) -> None:
        """Once another node has failed, end this one's part: it can only wait for that node."""
        if not self._ended:
            self._ended = self._failed() or self._silence(self._others, SILENCE_S)
            self._deadline = time.monotonic() + GRACE_S
        elif time.monotonic() > self._deadline and self._child is not None:
            self._child.kill()

    @property
    def _quiet_s(self) -> float:
        """How long a node may be silent that has something to say."""
        return QUIET_S if self._first.replaces else SILENCE_S

    def _silence(self, nodes: Sequence[int], limit_s: float) -> str:
        """Say which of the nodes are gone, if any; then the attempt is lost."""
        gone = [node for node in nodes if self._is_gone(self._first.watches[node], limit_s)]
        if gone:
            self._give_up(gone)
            who = ", ".join(map(self._label, gone))
            self._ended = f"node {who}: no sign of life for {limit_s:.0f} s"
        return self._ended if gone else ""

    def _give_up(self, gone: list[int]) -> None:
        self.is_lost, self._gone = True, gone
        self._first.members.give_up(gone)

    def _is_gone(self, watch: Watch, limit_s: float) -> bool:
        # Before a start has begun, a node may not have been there yet.
        return watch.look() > limit_s and (self._child is not None or watch.is_heard)

    def _label(self, node: int) -> str:
        return self._first.members.name(node) if self._first.replaces else str(node)

    def _failed(self) -> str:
        """Return which other node failed and how; empty if none did."""
        words = {node: self._word(node) for node in self._others}
        found = next((node for node, word in words.items() if word), None)
        return "" if found is None else f"node {self._label(found)}: {words[found]}"

    def _word(self, node: int) -> str | None:
        """Return how a node's part ended; empty while it runs, ``None`` before it began."""
        told = read_json(self._first.meeting.word(node))
        return None if told is None or told["id"] != self._id else str(told["end"])

    def _has_ended(self, node: int) -> bool:
        """Whether a node says that nothing of its part is left."""
        told = read_json(self._first.meeting.word(node))
        return told is not None and told["id"] == self._id and bool(told["ended"])
