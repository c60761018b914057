"""Puts down what is found when ranks have come to a halt, before anything is done about it.

First in memory, where the pages are: the run's folder may be on the file system that hangs. Then
a thread copies it, for a bounded time.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distrain.runs.durable import write_file
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.incidents import Incident, RankSeen, describe_place, name_of, numbers_of
from distrain.runs.progress_page import (
    STACK_SIGNAL,
    STACKS,
    WAITS_FOR_RANKS,
    Lane,
    Page,
    started_ticks,
    stat_fields,
)
from distrain.runs.records import append_event, json_text, read_state, utc_now
from launcher.backends.stacks import Stack, line_of_loop, line_of_save, read_stacks
from launcher.backends.watchdog import Halt, Situation

STACKS_S = 2.0
"""For all stacks of a node, together."""
QUIET_S = 0.1
"""Stacks that have not grown for so long are whole."""
WRITE_S = 10.0
"""For the run's folder."""
RECORDER_S = 1.0
RECORDER_PIPE, RECORDER_FILE = "nccl_pipe_", "nccl_trace_"
"""Beside the pages; NCCL appends the rank."""


@dataclass(frozen=True)
class WatchedStage:
    """What is watched."""

    run: RunFolder
    stage: str
    node: int
    nodes: int

    @property
    def folder(self) -> StageFolder:
        """Of the stage."""
        return self.run.stage(self.stage)


def put_down(place: WatchedStage, halt: Halt, situation: Situation, pages: Path) -> None:
    """Collect stacks and pages of all ranks of this node; write the incident and its event.

    Args:
        place: Of the stage.
        halt: The verdict.
        situation: What it was made of.
        pages: Their folder, where everything is collected.
    """
    write_incident(place, look_closer(place, halt, situation, pages), pages)


def look_closer(place: WatchedStage, halt: Halt, situation: Situation, pages: Path) -> Incident:
    """Collect stacks of all ranks of this node, and say what has happened; see ``put_down``."""
    stacks = collect_stacks(situation.pages, pages)
    dump_flight_recorder(situation.pages, pages)
    ranks = [seen_of(page, situation, stacks.get(page.rank, [])) for page in situation.pages]
    page, lane = halt.page, halt.lane
    own = next(seen for seen in ranks if seen["rank"] == page.rank)
    state = read_state(place.folder)
    return {
        "time": utc_now(),
        "kind": "hang",
        "attempt": state["attempt"] if state else 0,
        "host": page.host,
        "node": place.node,
        "rank": page.rank,
        "phase": lane.phase,
        "step": lane.step,
        "age_s": round(halt.age_s, 3),
        "limit_s": round(halt.limit_s, 3),
        "why": halt.why,
        "line": own["saving"]["line"] if lane is page.save else own["line"],
        "action": "all ranks of the node are killed; the rule of restarts decides",
        "ranks": ranks,
    }


def write_incident(
    place: WatchedStage, incident: Incident, pages: Path, number: int | None = None
) -> None:
    """Write an incident, its event and what was collected, for as long as that may take.

    Args:
        place: Of the stage.
        incident: What happened.
        pages: The folder in which everything was collected.
        number: Of its folder, if that is there.
    """
    run_bounded(lambda: _write(place, incident, pages, number), WRITE_S)


def run_bounded(call: Callable[[], None], limit_s: float) -> None:
    """Do something with the run's folder, which may be on the file system that hangs."""

    def suppressing() -> None:
        with suppress(OSError):  # a full disk must not keep the ranks alive
            call()

    thread = threading.Thread(target=suppressing, daemon=True)
    thread.start()
    thread.join(limit_s)


def describe_halt(halt: Halt) -> str:
    """Say how an attempt ended, in words."""
    page, lane = halt.page, halt.lane
    setting = f", launch.watchdog.limits.{lane.phase}" if halt.is_set else ""
    return (
        f"hung: {name_of(page.rank)} on {page.host} in {describe_place(lane.phase, lane.step)}, "
        f"{halt.age_s:.1f} s (limit {halt.limit_s:.1f} s{setting}); {halt.why}"
    )


def is_same_process(page: Page) -> bool:
    """Return whether the process of a page still runs, and is no other with its number."""
    try:
        return started_ticks(page.pid) == page.started and stat_fields(page.pid)[0] != "Z"
    except OSError:
        return False


def collect_stacks(ranks: Sequence[Page], folder: Path) -> dict[int, list[Stack]]:
    """Write the stacks of each rank beside its page, and return them by rank.

    py-spy looks from outside, and sees a stopped process as well. Without it each rank is asked by
    a signal, which one that is stopped does not get.
    """
    py_spy = find_py_spy()
    # A rank adds to what it wrote when it was asked before; py-spy begins its file anew.
    past = {page.rank: len(_text(page, folder)) if py_spy is None else 0 for page in ranks}
    if py_spy is not None:
        _spy(py_spy, ranks, folder)
    asked = [page for page in ranks if not _text(page, folder, past[page.rank]) and page.dumps]
    for page in asked:
        if is_same_process(page):
            with suppress(ProcessLookupError):
                os.kill(page.pid, STACK_SIGNAL)
    _await_stacks(asked, folder, past)
    return {page.rank: read_stacks(_text(page, folder, past[page.rank])) for page in ranks}


def find_py_spy() -> str | None:
    """Return the program of the extra ``watchdog``, beside this interpreter or in the path."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def _spy(py_spy: str, ranks: Sequence[Page], folder: Path) -> None:
    running = {}
    for page in filter(is_same_process, ranks):
        with (folder / f"{page.rank}{STACKS}").open("wb") as output:
            command = [py_spy, "dump", "--nonblocking", "--pid", str(page.pid)]
            running[page.rank] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL
            )
    deadline = time.monotonic() + STACKS_S
    for process in running.values():
        try:
            process.wait(max(0.05, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_stacks(asked: Sequence[Page], folder: Path, past: Mapping[int, int]) -> None:
    deadline = time.monotonic() + STACKS_S
    before: list[int] = []
    while asked and time.monotonic() < deadline:
        time.sleep(QUIET_S)
        sizes = [len(_text(page, folder, past[page.rank])) for page in asked]
        if sizes == before and all(sizes):
            return
        before = sizes


def _text(page: Page, folder: Path, start: int = 0) -> str:
    """Return what a rank's file of stacks holds from a character on."""
    try:
        return (folder / f"{page.rank}{STACKS}").read_text(errors="replace")[start:]
    except FileNotFoundError:
        return ""


def recorder_environment(folder: Path) -> dict[str, str]:
    """Return what lets NCCL's flight recorder be read from outside; it says nothing to gloo."""
    return {
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(folder / RECORDER_PIPE),
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": str(folder / RECORDER_FILE),
    }


def dump_flight_recorder(ranks: Sequence[Page], folder: Path) -> None:
    """Ask NCCL in each rank to write its last collectives, where a GPU has it listen.

    Not run on a GPU yet.
    """
    asked = []
    for page in ranks:
        pipe = folder / f"{RECORDER_PIPE}{page.rank}.pipe"
        with suppress(OSError):  # none: no NCCL here; or nobody reads it
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(descriptor, b"1\n")
                asked.append(folder / f"{RECORDER_FILE}{page.rank}")
            finally:
                os.close(descriptor)
    deadline = time.monotonic() + RECORDER_S
    while not all(path.exists() for path in asked) and time.monotonic() < deadline:
        time.sleep(0.05)


def seen_of(page: Page, situation: Situation, stacks: list[Stack]) -> RankSeen:
    """Describe one rank, as it was found."""
    sight = situation.sights.get(page.rank)
    seen: RankSeen = {
        "rank": page.rank,
        "pid": page.pid,
        **_lane(page.main, situation),  # type: ignore[typeddict-item]
        "collectives": page.main.collectives,
        "waits": page.main.waits == WAITS_FOR_RANKS,
        "state": sight.state if sight else "",
        "line": line_of_loop(stacks, page.main.phase),
    }
    if page.save is not None:
        seen["saving"] = _lane(page.save, situation) | {
            "collectives": page.save.collectives,
            "waits": page.save.waits == WAITS_FOR_RANKS,
            "line": line_of_save(stacks),
        }
    return seen


def _lane(lane: Lane, situation: Situation) -> dict[str, object]:
    age_s = round(situation.age_s(lane), 3)
    return {"phase": lane.phase, "step": lane.step, "age_s": age_s}


def _write(place: WatchedStage, incident: Incident, pages: Path, taken: int | None) -> None:
    number = _take_number(place.folder) if taken is None else taken
    target = place.folder.incident(number)
    for path in sorted(pages.glob("[!.]*")):
        if path.is_file():
            write_file(target.with_name(path.name), path.read_bytes())
    write_file(target, (json_text(incident, indent=1) + "\n").encode())
    append_event(
        place.run.events,
        "hung",
        place.stage,
        attempt=incident["attempt"],
        step=incident["step"],
        rank=incident["rank"],
        node=incident["host"],
        phase=incident["phase"],
        age_s=incident["age_s"],
        limit_s=incident["limit_s"],
        why=incident["why"],
        line=incident["line"],
        incident=number,
    )


def _take_number(folder: StageFolder) -> int:
    number = max(numbers_of(folder), default=0)
    while True:
        number += 1
        try:
            # By the folder itself: another node may take one at the same time.
            folder.incident(number).parent.mkdir(parents=True)
        except FileExistsError:
            continue
        return number
