"""The supervisor of one Slurm job: ``python -m launcher.backends.slurm.job RUN STAGE -- COMMAND``.

The batch script becomes this process, so that Slurm's signals reach it. It starts the command,
srun, once, which starts a supervisor a node (``node.py``); when they make no other attempt, it asks
the rule of restarts, and lets Slurm requeue the job or not. The exit code never follows srun's,
which is 0 even after it lost a node:

    0   the stage is done
    4   its folder has no room for the records of another start; or a node is not fit, and Slurm
        has no other
    6   it failed and would fail again, or ended too often in a row without a new checkpoint
    75  it ended with work left: asked to stop, or (before Slurm starts it again) to yield

Of a job that does one phase of a stage 0 means that its command ended well: it only saves time, and
what it leaves undone a later job does, which waits for the end of this one, not for its success.
"""

import argparse
import signal
import sys
from pathlib import Path

from distrain.errors import DistrainError
from distrain.runs.phases import PHASES
from distrain.runs.strikes import StrikeRules
from launcher.backends.slurm.batch import SIGNALS
from launcher.backends.slurm.phase_batch import PhaseBatch
from launcher.backends.slurm.stage_batch import StageBatch


def main(argv: list[str] | None = None) -> int:
    """Supervise one start of a job; returns its exit code."""
    # At once: bash has ignored these signals until now, and would have died of them before.
    heard: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: heard.append(number))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("stage")
    parser.add_argument("--phase", choices=PHASES, help="do this phase only")
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--patience", type=int, help="seconds that a stage may take to yield")
    parser.add_argument("--strikes", type=int, default=StrikeRules.limit)
    parser.add_argument("--strikes-folder", help="of the site")
    parser.add_argument("--node-checks", action="store_true", help="before a stage begins")
    parser.add_argument("--spares", action="store_true", help="the job outlives its nodes")
    parser.add_argument("--resume", help="what a user types to go on")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    batch = StageBatch(arguments) if arguments.phase is None else PhaseBatch(arguments)
    batch.listen(heard)
    try:
        return batch.supervise()
    except DistrainError as error:
        batch.say(str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
