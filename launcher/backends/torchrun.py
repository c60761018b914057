"""The backend ``torchrun``: nodes that share the run folder, but no scheduler.

Every node runs one text of its own. They meet at ``launch.rendezvous``, and wait for each other's
stages by the records in the run folder.
"""

import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from distrain.errors import ExitCode, RecipeError, TrainingError
from distrain.runs.failures import after_the_logs, record_failure
from distrain.runs.folder import RunFolder
from distrain.runs.records import (
    StageError,
    StageState,
    is_done,
    read_json,
    read_state,
    state_pattern,
)
from launcher.backends.interrupt import Interruptions, clear_wishes
from launcher.backends.local import LocalBackend
from launcher.backends.protocol import Surroundings
from launcher.backends.restart import judge
from launcher.backends.supervise import StageFailedError
from launcher.plan import Plan, Rendezvous, StagePlan, local_rendezvous, stage_argv, stage_env

POLL_S = 2
"""Between two looks of a node at a stage that runs on another one."""


class TorchrunBackend(LocalBackend):
    """As ``local`` on one node; with several, each runs a command of its own."""

    def render(self, plan: Plan) -> str:
        """Write the commands, one a node where there are several."""
        if plan.recipe.launch.nodes == 1:
            return super().render(plan)
        texts = commands_per_node(plan)
        return "\n\n".join(f"# node {node}\n{text}" for node, text in enumerate(texts))

    def start(self, plan: Plan, stages: Sequence[StagePlan], around: Surroundings) -> ExitCode:
        """Show each node's command; run that of the first node if this is it."""
        if all(stage.nodes == 1 for stage in stages):
            return super().start(plan, stages, around)
        clear_wishes(plan.run)
        plan = replace(plan, stages=tuple(stages))
        here = node_here(plan)
        for node, text in enumerate(commands_per_node(plan)):
            if node != here:
                sys.stdout.write(f"# type this on node {node}\n{text}\n")
        sys.stdout.flush()
        if here is None:
            return ExitCode.DONE
        with Interruptions(plan.run) as interruptions:
            return run_node(plan, here, was_interrupted=lambda: interruptions.count > 0)


def commands_per_node(plan: Plan, python: str = sys.executable) -> list[str]:
    """Return what to type on each node, the first of which is ``launch.rendezvous``.

    Stages of one process run on the first node. A stage that is done is passed over.

    Raises:
        RecipeError: Several nodes without a rendezvous.
    """
    _rendezvous(plan, plan.stages[0])
    return [_text(plan, node, python) for node in range(plan.recipe.launch.nodes)]


def node_here(plan: Plan) -> int | None:
    """Return 0 if this machine is the first node, ``None`` if it is another one or none of them."""
    if plan.recipe.launch.nodes == 1:
        return 0
    host, _ = _address(plan)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)  # only an address of this machine can be bound
    except OSError:
        return None
    return 0


def run_node(
    plan: Plan,
    node: int,
    python: str = sys.executable,
    *,
    was_interrupted: Callable[[], bool] = lambda: False,
) -> ExitCode:
    """Run the text of a node here; returns when all stages are done or one is not.

    Args:
        plan: Of the run.
        node: Which one this is; the first keeps the records.
        python: Interpreter that has the runtime.
        was_interrupted: Whether the user asked the run to end meanwhile.

    Raises:
        DistrainError: A stage failed for good; the message says how and what to do.
    """
    texts = commands_per_node(plan, python)
    before = {stage.name: read_state(plan.run.stage(stage.name)) for stage in plan.stages}
    if node == 0:
        for stage in plan.stages:
            plan.run.stage(stage.name).error.unlink(missing_ok=True)
    done = subprocess.run(["bash", "-c", texts[node]], check=False)
    if done.returncode == 0:
        return ExitCode.DONE
    if was_interrupted():
        return ExitCode.STOPPED
    left = next((s.name for s in plan.stages if not is_done(plan.run, s.name)), None)
    if node > 0 or left is None:
        return ExitCode.TRAINING
    return _end_of(plan.run, left, before[left])


def _end_of(run: RunFolder, stage: str, before: StageState | None) -> ExitCode:
    """Judge the only attempt of a stage, which did not finish it."""
    folder = run.stage(stage)
    attempt = (before["attempt"] if before else 0) + 1
    error = cast("StageError | None", read_json(folder.error))
    if error is not None:
        raise StageFailedError(error)
    if judge(attempt, read_state(folder), None) in ("yielded", "stopped"):
        return ExitCode.STOPPED
    failure = TrainingError(
        f"stage {stage}",
        f"that its processes ended in attempt {attempt} before it was done",
        "a finished stage",
        after_the_logs(run.root.name),
    )
    record_failure(run, stage, failure, attempt)
    raise failure


def _text(plan: Plan, node: int, python: str) -> str:
    lines = ["(", f'is_done() {{ grep -qsE {shlex.quote(state_pattern("done"))} "$1"; }}']
    for stage in plan.stages:
        if node == 0 or stage.nodes > 1:
            lines += _stage_lines(plan, stage, node, python)
    return "\n".join([*lines, ")"])


def _stage_lines(plan: Plan, stage: StagePlan, node: int, python: str) -> list[str]:
    def is_done(name: str) -> str:
        return f"is_done {shlex.quote(str(plan.run.stage(name).state))}"

    waits = [f"until {is_done(need)}; do sleep {POLL_S}; done" for need in stage.needs if node > 0]
    env = [f"{name}={shlex.quote(value)}" for name, value in stage_env(stage).items()]
    argv = stage_argv(stage, plan.run, python=python, rendezvous=_rendezvous(plan, stage))
    command = f"{is_done(stage.name)} || {' '.join([*env, *map(shlex.quote, argv)])}"
    end = f"exit {ExitCode.TRAINING:d}"
    if node > 0:  # the record is the first node's, and may be seen here a little late
        return [*waits, f"{command} || {end}"]
    return [command, f"{is_done(stage.name)} || {end}"]


def _rendezvous(plan: Plan, stage: StagePlan) -> Rendezvous:
    start_id = f"{plan.run.root.name}-{stage.name}"
    if plan.recipe.launch.nodes == 1:
        return local_rendezvous(start_id)
    host, port = _address(plan)
    return Rendezvous(f"{host}:{port}", start_id)


def _address(plan: Plan) -> tuple[str, int]:
    if plan.recipe.launch.rendezvous is not None:
        host, _, port = plan.recipe.launch.rendezvous.rpartition(":")
        return host, int(port)
    raise RecipeError(
        "launch.rendezvous",
        "nothing",
        f"host:port of the first of {plan.recipe.launch.nodes} nodes, reachable from all of them",
        f"Set launch.rendezvous={socket.gethostname()}:29400 if this is the first node.",
    )
