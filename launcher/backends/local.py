"""Runs stages here, one after the other, as child processes; starts a failed one again.

A stage has ended well when its ``state.json`` says so; exit codes are only reported.
"""

import secrets
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from distrain.config.recipe import DISTRIBUTED_KINDS
from distrain.errors import ExitCode
from distrain.runs.folder import RunFolder
from distrain.runs.products import check_sources
from distrain.runs.records import append_event, is_done
from launcher.backends.incidents import WatchedStage
from launcher.backends.interrupt import Interruptions, clear_wishes
from launcher.backends.orders import StageOrders
from launcher.backends.protocol import RunJobs, Surroundings
from launcher.backends.starting import LOOPBACK, MeetingPlace, NodeStarter, open_place
from launcher.backends.supervise import Processes, Supervised, Supervisor
from launcher.plan import Plan, StagePlan, stage_env, starting_argv
from launcher.preflight import check_machine
from launcher.text import plural
from launcher.watch.progress import StageFollower, extent_of

POLL_S = 0.5
"""Between two looks at the records of a running stage; its end is noticed at once."""

Starter = Callable[[StagePlan, Path], Processes]
"""Starts an attempt of a stage, whose output goes to a file."""


class LocalBackend:
    """Runs stages as children of the launcher."""

    is_queued = False

    def check(self, plan: Plan) -> list[str]:
        """Check all that a run on this machine needs."""
        return check_machine(plan)

    def render(self, plan: Plan) -> str:
        """Write the commands, as a shell would take them."""
        lines = []
        for stage in plan.stages:
            argv = starting_argv(stage, plan.run, python=sys.executable)
            env = [f"{key}={shlex.quote(value)}" for key, value in stage_env(stage).items()]
            lines += [f"# {stage.name}{_forked(stage)}", " ".join([*env, shlex.join(argv)])]
        return "\n".join(lines)

    def start(self, plan: Plan, stages: Sequence[StagePlan], around: Surroundings) -> ExitCode:
        """Run the stages; returns when all are done or one is not."""
        clear_wishes(plan.run)
        return run_stages(plan, stages, around)

    def states(self, runs: Sequence[RunFolder]) -> list[RunJobs]:
        """Return nothing: there is no queue."""
        return [RunJobs() for _ in runs]

    def cancel(self, run: RunFolder, stages: Iterable[str]) -> None:
        """Do nothing: every stage looks at ``control/stop``."""


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
    with Interruptions(plan.run) as interruptions:
        for stage in stages:
            if is_done(plan.run, stage.name) and not around.arguments:
                check_sources(plan.run, stage.name)
                around.say(f"{stage.name}: done before, skipped")
                append_event(plan.run.events, "skipped", stage.name)
                continue
            if interruptions.count:
                return ExitCode.STOPPED
            with closing(NodeStarter(0, around.say)) as starter:
                supervised = _supervised(plan, stage, around, interruptions, starter, start)
                code = Supervisor(supervised, interruptions).run()
            if code is not ExitCode.DONE:
                return code
    return ExitCode.DONE


def stage_orders(
    run: RunFolder, stage: StagePlan, python: str, arguments: Sequence[str] = ()
) -> StageOrders:
    """Return what each node starts for a stage.

    Args:
        run: Which run.
        stage: Which stage of it.
        python: Interpreter that has the runtime.
        arguments: Further ones of the runtime's ``stage`` command.
    """
    return StageOrders(
        stage.name,
        stage.nodes,
        stage.world_size,
        (*starting_argv(stage, run, python=python), *arguments),
        stage_env(stage),
        str(run.stage(stage.name).rank_logs),
    )


def _forked(stage: StagePlan) -> str:
    """Say what becomes of a command that forks, where a reader looks for torchrun."""
    count = plural(stage.processes_per_node, "process")
    text = f": forks {count} a node, told by the launcher"
    return text if stage.kind in DISTRIBUTED_KINDS else ""


def _supervised(
    plan: Plan,
    stage: StagePlan,
    around: Surroundings,
    interruptions: Interruptions,
    starter: NodeStarter,
    start: Starter | None,
) -> Supervised:
    def start_here(log: Path) -> Processes:
        start_id = f"{log.stem}-{secrets.token_hex(4)}"
        is_alone = stage.world_size == 1
        place = MeetingPlace(start_id) if is_alone else open_place(start_id, LOOPBACK, 0)
        orders = stage_orders(plan.run, stage, around.python, around.arguments)
        watched = WatchedStage(plan.run, stage.name, node=0, nodes=1)
        return starter.start(orders, place, log, watched)

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
