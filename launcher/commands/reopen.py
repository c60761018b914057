"""Asks the runtime whether a stage that is done must be made again: what ``--from`` does first."""

import json
import subprocess
import sys
from collections.abc import Callable

from distrain.config.recipe import DISTRIBUTED_KINDS
from distrain.errors import ExitCode, PreflightError
from distrain.runs.records import is_done, utc_now
from launcher.backends.supervise import StageFailedError
from launcher.plan import Plan
from launcher.preflight import missing_modules

KINDS = DISTRIBUTED_KINDS | {"export"}
"""Kinds of stages whose product is known by its digest."""


def reopen_damaged(plan: Plan, name: str, say: Callable[[str], None]) -> None:
    """Let a stage be made again if it is done but what it made is damaged or gone.

    Raises:
        PreflightError: The runtime is not installed here, or ended without an answer.
        StageFailedError: The runtime could not tell.
    """
    if plan.recipe.stages[name].kind not in KINDS or not is_done(plan.run, name):
        return
    for problem in missing_modules(plan.recipe):
        raise problem
    command = [sys.executable, "-m", "distrain", "reopen", str(plan.run.root), name]
    answer = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if answer.returncode != 0:  # killed, or a defect: its own words are on stderr
        raise PreflightError(
            f"stage {name}",
            f"no answer whether it must be made again (exit code {answer.returncode})",
            "a word from the runtime",
            "What it said stands above. Remove the cause, then run the same command again; "
            "nothing was changed.",
        )
    told = json.loads(answer.stdout)
    if told["exit_code"] != ExitCode.DONE:
        code, message = told["exit_code"], told["text"]
        raise StageFailedError(
            {"exit_code": code, "message": message, "remedy": "", "time": utc_now()}
        )
    say(told["text"])
