"""The runtime's process entry: ``python -m distrain stage RUN NAME``, on every rank of a job.

Here errors meet the process boundary: each becomes a message, a record and an exit code. What
decides whether a stage is done is its ``state.json``, never the exit code.
"""

import argparse
import errno
import logging
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from distrain.config.reading.load import read_resolved
from distrain.config.recipe import DISTRIBUTED_KINDS, PrepareStage, Recipe
from distrain.errors import DistrainError, ExitCode, PreflightError
from distrain.fault import page
from distrain.fault.consequence import is_of_others
from distrain.fault.parent import die_with_parent
from distrain.monitor.logs import configure_logging
from distrain.runs.command import as_typed
from distrain.runs.durable import DISK_FULL
from distrain.runs.failures import record_error, record_failure
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.lock import acquire
from distrain.runs.phases import PHASES, WHOLE, Phase, Share
from distrain.runs.records import StageState, append_event, read_json, utc_now, write_json
from distrain.stages import stage_body
from distrain.stages.context import Outcome, StageContext, typed

log = logging.getLogger("distrain")

MANY_FILES = 1 << 17
"""Descriptors wanted: each mapped shard holds two or three, and many systems begin with 1024."""


def main(argv: list[str] | None = None) -> int:
    """Run one command of the runtime; returns its exit code."""
    arguments = _parse(argv)
    rank = int(os.environ.get("RANK", "0"))
    die_with_parent()
    if arguments.command == "stage":
        page.open_page()
    allow_many_files()
    configure_logging(rank, os.environ.get("DISTRAIN_LOG_LEVEL", "INFO"))
    try:
        if arguments.command != "stage":
            return run_tool(arguments)
        run = RunFolder(arguments.run)
        recipe = read_resolved(run.resolved)
        if arguments.phase is not None:
            return run_phase(recipe, run, arguments.stage, arguments.phase, arguments.share)
        return run_stage(recipe, run, arguments.stage, rank, again=arguments.again)
    except DistrainError as error:
        page.page.say_failure("refused")
        # A message for the user, not a traceback.
        log.error("%s", as_typed(str(error)))  # noqa: TRY400
        return _after_error(error.exit_code)
    except Exception as error:
        page.page.say_failure("met" if is_of_others(error) else "raised")
        if "WORLD_SIZE" in os.environ:
            log.exception(
                "this rank failed; if another rank failed first, this is only a consequence"
            )
        else:
            log.exception("a defect of distrain, or of something it uses")
        return _after_error(ExitCode.BUG)


def run_tool(arguments: argparse.Namespace) -> int:
    """Run a command that is no stage, in this process alone; returns its exit code."""
    if arguments.command == "generate":
        from distrain.tools.generate import run_command

        return run_command(arguments)
    if arguments.command == "harness":
        from distrain.tools import harness

        return harness.run_command(arguments)
    if arguments.command in ("count-models", "first-look"):
        from distrain.tools import count_models, first_look

        is_count = arguments.command == "count-models"
        return count_models.run_command() if is_count else first_look.run_command()
    if arguments.command == "reopen":
        from distrain.tools import reopen

        return reopen.run_command(RunFolder(arguments.run), arguments.stage)
    if arguments.command == "spoil":
        from distrain.tools import spoil

        return spoil.run_command(RunFolder(arguments.run), arguments.stage, arguments.what)
    from distrain.tools import data_commands

    return data_commands.run_command(arguments.arguments)


def allow_many_files() -> None:
    """Raise the soft limit of open files as far as it may be, up to ``MANY_FILES``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_stage(recipe: Recipe, run: RunFolder, name: str, rank: int, *, again: bool = False) -> int:
    """Run a stage on this rank; rank 0 keeps its state, events and result."""
    folder = run.stage(name)
    # Rank 0 alone counts: another one may look before or after it has begun.
    attempt = _next_attempt(folder) if rank == 0 else None
    context = StageContext(recipe, run, name, attempt, again)
    lock = None if attempt is None else _begin(run, folder, attempt)
    # After the lock, which an orphan may hold for a while.
    page.be_judged()
    if recipe.stages[name].kind not in DISTRIBUTED_KINDS:
        page.begin_work(recipe.stages[name].kind)
    try:
        outcome = stage_body(recipe.stages[name].kind)(context)
    except DistrainError as error:
        _record_permanent(context, error)
        raise
    except Exception as error:
        full = _disk_full(run, error)
        if full is not None:
            _record_permanent(context, full)
            raise full from error
        is_alone = recipe.stages[name].kind not in DISTRIBUTED_KINDS
        # One process that reads its inputs and fails would fail again; among ranks, an exception
        # may only say that another one was lost.
        if is_alone and not isinstance(error, OSError | MemoryError):
            _record_permanent(context, _defect(run, name, error))
        raise
    if attempt is not None:
        _end(run, folder, attempt, outcome)
    if recipe.stages[name].kind in DISTRIBUTED_KINDS:
        from distrain.parallel.process_group import finish

        page.mark("ended")
        finish(ExitCode.DONE)
    if lock is not None:
        os.close(lock)
    return ExitCode.DONE


def run_phase(recipe: Recipe, run: RunFolder, name: str, phase: Phase, share: Share) -> int:
    """Do one phase of a prepare stage, or a share of it; state and result are the stage's own."""
    from distrain.stages import prepare_phases

    folder = run.stage(name)
    stage = typed(recipe, name, PrepareStage)
    with prepare_phases.phase_lock(folder, run.root.name, phase, share):
        try:
            is_done = prepare_phases.run_phase(stage, folder, phase, share)
        except DistrainError as error:
            context = StageContext(recipe, run, name, _next_attempt(folder))
            _record_permanent(context, error, phase=True)
            raise
    return ExitCode.DONE if is_done else ExitCode.STOPPED


def _after_error(code: ExitCode) -> int:
    if "torch" in sys.modules:
        from distrain.parallel.process_group import finish

        finish(code, together=False)  # gloo may abort an ordinary exit, and leave a core behind
    return code


def _next_attempt(folder: StageFolder) -> int:
    state = read_json(folder.state)
    return (int(state["attempt"]) if state else 0) + 1


def _begin(run: RunFolder, folder: StageFolder, attempt: int) -> int:
    lock = acquire(folder.lock, run.root.name)
    folder.error.unlink(missing_ok=True)
    previous = read_json(folder.state)
    step = int(previous["step"]) if previous else 0
    state: StageState = {
        "state": "running",
        "attempt": attempt,
        "step": step,
        "requeue": False,
        "time": utc_now(),
    }
    write_json(folder.state, state)
    append_event(run.events, "started", folder.name, attempt=attempt, pid=os.getpid())
    return lock


def _end(run: RunFolder, folder: StageFolder, attempt: int, outcome: Outcome) -> None:
    done = outcome.result is not None
    if outcome.result is not None:
        write_json(folder.result, outcome.result)
    append_event(
        run.events,
        "finished" if done else "stopped",
        folder.name,
        attempt=attempt,
        step=outcome.step,
    )
    state: StageState = {
        "state": "done" if done else "stopped",
        "attempt": attempt,
        "step": outcome.step,
        "requeue": outcome.requeue,
        "time": utc_now(),
    }
    write_json(folder.state, state)


def _record_permanent(context: StageContext, error: DistrainError, *, phase: bool = False) -> None:
    """Write down an error that another attempt would meet again, so that nobody makes one."""
    try:
        if phase and context.attempt is not None:
            # No attempt of the stage: its own job tries once more, and says how it ended.
            record_error(context.run, context.name, error, context.attempt)
        else:
            record_failure(context.run, context.name, error, context.attempt)
    except OSError as reason:  # as on a full disk; what is raised next must not be lost
        log.warning("%s could not be written: %s", context.folder.error, reason)


def _defect(run: RunFolder, stage: str, error: Exception) -> DistrainError:
    return DistrainError(
        f"stage {stage}",
        f"{type(error).__name__}: {error}",
        "a finished stage",
        f"This is a defect of distrain, or of something it uses: see `distrain logs "
        f"{run.root.name} --errors`; another attempt would end the same way.",
    )


def _disk_full(run: RunFolder, error: Exception) -> PreflightError | None:
    """Recognise a full disk, also in what libraries written in Rust make of it."""
    system = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
    if system.errno not in DISK_FULL and "(os error 28)" not in str(error):
        return None
    return PreflightError(
        str(system.filename or run.root),
        f"no space left ({system.strerror})",
        "room for the stage's files",
        "Free space or set DISTRAIN_RUNS_DIR to another disk, then run the same command again; "
        "nothing that was finished is lost.",
    )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m distrain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    stage = commands.add_parser("stage", help="run one stage of a run folder")
    stage.add_argument("run", type=Path)
    stage.add_argument("stage")
    stage.add_argument("--again", action="store_true", help="of evaluate: use the test split again")
    stage.add_argument("--phase", choices=PHASES, help="of prepare: do this phase only")
    stage.add_argument(
        "--share", type=Share.parse, default=WHOLE, help="of a phase over ranges: INDEX/COUNT"
    )
    reopen = commands.add_parser("reopen", help="let a done stage be made again, if it must be")
    reopen.add_argument("run", type=Path)
    reopen.add_argument("stage")
    spoil = commands.add_parser("spoil", help="break a scratch copy, for prove to notice")
    spoil.add_argument("run", type=Path)
    spoil.add_argument("stage")
    spoil.add_argument("what")
    commands.add_parser("count-models", help="read models from stdin, print what each counts")
    commands.add_parser("first-look", help="read chats from stdin, print what is wrong with them")
    generate = commands.add_parser("generate", help="complete a prompt with an exported model")
    generate.add_argument("model")
    generate.add_argument("prompt")
    generate.add_argument("--max-new-tokens", type=int, required=True)
    generate.add_argument("--temperature", type=float, required=True)
    generate.add_argument("--repetition-penalty", type=float, required=True)
    generate.add_argument("--seed", type=int, required=True)
    generate.add_argument("--max-memory", type=int, help="bytes of weights on each device")
    generate.add_argument("--chat", action="store_true", help="the prompt is a user's turn")
    generate.add_argument("--system", help="what stands before the prompt of a chat")
    generate.add_argument("--template-arguments", default="{}", help="of a chat template, as JSON")
    harness = commands.add_parser("harness", help="ask a model tasks of lm_eval")
    harness.add_argument("model")
    harness.add_argument("settings", help="a section of a recipe, as JSON")
    harness.add_argument("--max-memory", type=int, help="bytes of weights on each device")
    data = commands.add_parser("data", help="look at token files", add_help=False)
    data.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser.parse_args(argv)


def leave(exit_code: int) -> NoReturn:
    """End a tool's process at once.

    Threads of pyarrow's abort an ordinary exit now and then (SIGABRT after the answer was written),
    or keep it from ending. A tool has written and closed everything by then.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it is gone
            stream.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    code = main()
    if sys.argv[1:2] != ["stage"]:
        leave(code)
    sys.exit(code)
