"""Start a whole run as a user would, find its processes, and kill some of them."""

import signal
import subprocess
import time
from pathlib import Path

import psutil

from tests.tiny import command, environment, events

ORPHAN_LIMIT_S = 5.0


def start(runs: Path, recipe: Path, *overrides: str) -> "subprocess.Popen[bytes]":
    """Start ``distrain run`` and return at once; its output goes to a log beside ``runs``."""
    with (runs.parent / "launcher.log").open("ab") as log:
        return subprocess.Popen(
            command("run", str(recipe), *overrides),
            env=environment(runs),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for_stage(run: Path, stage: str, launcher: "subprocess.Popen[bytes]") -> bool:
    """Wait until this launcher has begun the stage; False if the whole run ended before."""
    deadline = time.monotonic() + 240
    seen = attempts(run, stage)
    while time.monotonic() < deadline:
        if attempts(run, stage) > seen:
            return True
        if launcher.poll() is not None:
            return False
        time.sleep(0.02)
    raise TimeoutError(f"{stage} did not begin")


def attempts(run: Path, stage: str) -> int:
    """Count the starts of a stage."""
    if not (run / "events.jsonl").exists():
        return 0
    return sum(event["stage"] == stage for event in events(run, "started"))


def family(launcher: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """List the launcher and all processes below it."""
    try:
        parent = psutil.Process(launcher.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def ranks_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those of a family that a fork server has forked, in the order of ranks."""
    servers = {p.pid for p in processes if "--socket" in " ".join(p.cmdline())}
    ranks = [p for p in processes if p.ppid() in servers]
    return sorted(ranks, key=lambda rank: rank.name())


def kill(victims: list[psutil.Process]) -> None:
    """Kill processes that may have ended already."""
    for victim in victims:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def assert_no_orphans(processes: list[psutil.Process]) -> None:
    """Check that all have ended by themselves within the promised time."""
    _, alive = psutil.wait_procs(processes, timeout=ORPHAN_LIMIT_S)
    left = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left, [p.cmdline() for p in left]
