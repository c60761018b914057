"""Runs stages here, one after the other, as child processes; starts a failed one again.

A stage has ended well when its ``state.json`` says so; exit codes are only reported.
"""

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distrain.errors import ExitCode, PreflightError
from distrain.runs.products import check_sources
from distrain.runs.records import append_event, is_done
from launcher.backends.interrupt import Interruptions
from launcher.backends.processes import Child
from launcher.backends.supervise import Processes, Supervised, Supervisor
from launcher.plan import Plan, StagePlan, local_rendezvous, stage_argv, stage_env
from launcher.run_files import name_of
from launcher.watch.progress import Display, Extent, StageFollower, extent_of

POLL_S = 0.5
"""Between two looks at the records of a running stage; its end is noticed at once."""

Starter = Callable[[StagePlan, Path], Processes]
"""Starts an attempt of a stage, whose output goes to a file."""


@dataclass(frozen=True)
class Surroundings:
    """What a run is given besides its plan."""

    say: Callable[[str], None]
    """Shows a line to the user, on stderr."""
    make_display: Callable[[Extent], Display]
    """Makes the display of one attempt."""
    python: str = sys.executable
    arguments: tuple[str, ...] = ()
    """Further arguments of the runtime's ``stage`` command; a stage that is done runs again."""


def run_stages(
    plan: Plan, stages: Sequence[StagePlan], around: Surroundings, start: Starter | None = None
) -> ExitCode:
    """Run ``stages`` in order, leaving out those that are done.

    The caller holds the lock of the run. Signals become wishes meanwhile (``Interruptions``).

    Args:
        plan: Of the run.
        stages: Which of them.
        around: The user's side.
        start: How processes are started; by default as children of this one.

    Returns:
        ``DONE``, ``STOPPED`` (work is left), or ``INTERRUPTED`` (killed by a second signal).

    Raises:
        DistrainError: A stage failed for good; the message says how and what to do.
    """
    check_needs(plan, stages)
    with Interruptions(plan.run) as interruptions:
        for stage in stages:
            if is_done(plan.run, stage.name) and not around.arguments:
                check_sources(plan.run, stage.name)
                around.say(f"{stage.name}: done before, skipped")
                append_event(plan.run.events, "skipped", stage.name)
                continue
            if interruptions.count:
                return ExitCode.STOPPED
            supervised = _supervised(plan, stage, around, interruptions, start)
            code = Supervisor(supervised, interruptions).run()
            if code is not ExitCode.DONE:
                return code
    return ExitCode.DONE


def check_needs(plan: Plan, stages: Sequence[StagePlan]) -> None:
    """Refuse a selection of stages that leaves out one that is needed and not done.

    Raises:
        PreflightError: Names the stage that is missing.
    """
    selected = {stage.name for stage in stages}
    for stage in stages:
        for need in stage.needs:
            if need not in selected and not is_done(plan.run, need):
                raise PreflightError(
                    f"stage {stage.name}",
                    f"that it needs stage {need}, which is not done",
                    "every needed stage done or selected",
                    f"Run it first: `distrain resume {name_of(plan.run)} --only {need}`.",
                )


def _supervised(
    plan: Plan,
    stage: StagePlan,
    around: Surroundings,
    interruptions: Interruptions,
    start: Starter | None,
) -> Supervised:
    def start_here(log: Path) -> Processes:
        run = plan.run
        rendezvous = local_rendezvous(f"{run.root.name}-{stage.name}-{secrets.token_hex(4)}")
        argv = stage_argv(stage, run, python=around.python, rendezvous=rendezvous)
        return Child([*argv, *around.arguments], os.environ | stage_env(stage), log)

    def follow(processes: Processes, attempt: int) -> None:
        _follow(plan, stage, around, interruptions, processes, attempt)

    return Supervised(
        plan.run,
        stage.name,
        stage.world_size,
        plan.recipe.launch.max_restarts,
        start_here if start is None else lambda log: start(stage, log),
        follow,
        around.say,
    )


def _follow(
    plan: Plan,
    stage: StagePlan,
    around: Surroundings,
    interruptions: Interruptions,
    processes: Processes,
    attempt: int,
) -> None:
    """Show an attempt until it ends; pass on what the user wants meanwhile."""
    display = around.make_display(extent_of(plan.run, plan.recipe, stage.name))
    follower = StageFollower(plan.run, stage.name, attempt, display)
    asked = False
    try:
        while not processes.wait(POLL_S):
            follower.poll()
            if interruptions.count and not asked:
                asked = True
                append_event(plan.run.events, "yield_requested", stage.name, attempt=attempt)
            if interruptions.kill:
                processes.kill()
        follower.poll()
    finally:
        display.close()
