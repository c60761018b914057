"""The supervisor of one node of several: ``python -m launcher.backends.node RUN NODE``.

This is what a user types on each node. It imports neither torch nor the recipe's schema, so that it
listens to signals at once. The first node, 0, applies the rule of restarts; the others follow it.
"""

import argparse
import sys
from pathlib import Path

from distrain.errors import DistrainError, ExitCode, PreflightError
from distrain.runs.command import as_typed
from distrain.runs.folder import RunFolder
from distrain.runs.lock import hold
from distrain.runs.products import check_sources
from distrain.runs.records import append_event, is_done
from launcher.backends.interrupt import Interruptions, clear_wishes
from launcher.backends.nodes import FirstNode
from launcher.backends.orders import Orders
from launcher.backends.other_node import OtherNode
from launcher.backends.supervise import Processes, Supervised, Supervisor, wait_for_end


def main(argv: list[str] | None = None) -> int:
    """Run a node until its run ends; returns an exit code of ``distrain.errors``."""
    parser = argparse.ArgumentParser(prog="python -m launcher.backends.node", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("node", type=int)
    arguments = parser.parse_args(argv)
    run = RunFolder(arguments.run)
    try:
        if arguments.node > 0:
            with Interruptions(run) as interruptions:
                return OtherNode(run, run.meeting, arguments.node).run(interruptions)
        return run_first_node(run)
    except DistrainError as error:
        say(f"error: {error}")
        return error.exit_code


def run_first_node(run: RunFolder) -> ExitCode:
    """Run all stages from this node; the others take part where a stage has several.

    Raises:
        DistrainError: A stage failed for good.
    """
    orders = Orders.read(run.meeting)
    if orders is None:
        raise PreflightError(
            str(run.meeting.orders),
            "nothing",
            "what `distrain run` writes for the nodes of a run",
            "Start the run with `distrain run`, then type what it prints.",
        )
    with hold(run.lock, run.root.name), Interruptions(run) as interruptions:
        clear_wishes(run)
        first = FirstNode(run, run.meeting, orders, say)
        code = ExitCode.BUG
        try:
            code = _run_stages(run, orders, first, interruptions)
        except DistrainError as error:
            code = error.exit_code
            raise
        finally:
            first.end(code)
    return code


def say(line: str) -> None:
    """Show a line on stderr."""
    sys.stderr.write(as_typed(line) + "\n")
    sys.stderr.flush()


def _run_stages(
    run: RunFolder, orders: Orders, first: FirstNode, interruptions: Interruptions
) -> ExitCode:
    def follow(processes: Processes, attempt: int) -> None:
        wait_for_end(processes, interruptions)

    for stage in orders.stages:
        name = stage.name
        if is_done(run, name):
            check_sources(run, name)
            append_event(run.events, "skipped", name)
            continue
        if interruptions.count:
            return ExitCode.STOPPED

        def start(log: Path, name: str = name) -> Processes:
            return first.start(name, log)

        supervised = Supervised(
            run, name, stage.world_size, orders.max_restarts, start, follow, say
        )
        code = Supervisor(supervised, interruptions).run()
        if code is not ExitCode.DONE:
            return code
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
