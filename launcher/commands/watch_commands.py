"""Commands that look at runs, during them and after: list, status, logs, report."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import JsonOption, RunArgument
from launcher.commands.output import Shown, show

if TYPE_CHECKING:
    from distrain.runs.folder import RunFolder
    from launcher.watch.logs import LogTail

FOLLOW_POLL_S = 0.5


def list_runs(as_json: JsonOption = False) -> None:
    """Show all runs, the latest first, and what Slurm has queued."""
    from launcher.commands.listing import list_lines, runs_table
    from launcher.run_files import runs_dir

    lines = list_lines()
    text = runs_table(lines) if lines else f"no run in {runs_dir()}"
    result = {"folder": str(runs_dir()), "runs": [line.to_json() for line in lines]}
    show("list", Shown(result, text), as_json=as_json)


def status(target: RunArgument = None, as_json: JsonOption = False) -> None:
    """Show where the stages of a run stand."""
    from distrain.config.reading.load import read_resolved
    from launcher.commands.status import run_status, status_table, with_queue_notes
    from launcher.run_files import find_run

    found = find_run(target)
    rows = with_queue_notes(found, run_status(found, read_resolved(found.resolved)))
    result = {"stages": [row.to_json() for row in rows]}
    show("status", Shown(result, status_table(rows), found), as_json=as_json)


def logs(  # noqa: PLR0913
    target: RunArgument = None,
    stage: Annotated[str | None, typer.Option("--stage", help="Default: the latest.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Default: the latest.")] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="Lines of this rank only.", min=0)
    ] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", metavar="N", help="The last N lines only.", min=0)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines come, until the run has ended.")
    ] = False,
    errors: Annotated[
        bool,
        typer.Option(
            "--errors", help="Last lines of the rank that failed first; hangs; the last resume."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what the processes of a stage wrote."""
    from distrain.config.reading.load import read_resolved
    from launcher.run_files import find_run
    from launcher.watch.logs import LogTail, failure_excerpt, find_log, found_of, read_lines

    if follow and (errors or as_json):
        raise typer.BadParameter("--follow goes with neither --errors nor --json")
    found = find_run(target)
    stages = list(read_resolved(found.resolved).stages)
    path = find_log(found, stages, stage, attempt)
    growing = LogTail(lambda: find_log(found, stages, stage, attempt)) if follow else None
    if errors:
        lines = failure_excerpt(path.read_text(encoding="utf-8", errors="replace")).splitlines()
        lines += found_of(found.stage(path.parent.parent.name))
    else:
        lines = read_lines(path, rank)
    lines = lines if tail is None else lines[max(0, len(lines) - tail) :]
    if not as_json:
        typer.echo(str(path) if lines else f"{path} (nothing so far)", err=True)
    result = {"file": str(path), "lines": lines}
    show("logs", Shown(result, "".join(f"{line}\n" for line in lines), found), as_json=as_json)
    if growing is not None:
        _follow(found, growing, rank)


def report(
    target: RunArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: in the run folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one offline HTML file about a run."""
    from launcher.report.page import write_report
    from launcher.run_files import find_run, shown_path
    from launcher.text import short_bytes

    found = find_run(target)
    path = write_report(found, output)
    size = path.stat().st_size
    text = f"{shown_path(path)}  {short_bytes(size)}  (opens offline)"
    show("report", Shown({"file": str(path), "bytes": size}, text, found), as_json=as_json)


def _follow(run: "RunFolder", growing: "LogTail", rank: int | None) -> None:
    """Print lines as they come; a new file is named on stderr."""
    from launcher.commands.status import has_ended
    from launcher.watch.logs import lines_of_rank

    path = growing.path
    is_over = False
    while not is_over:
        is_over = has_ended(run)  # asked first: what came before its end is read below
        for line in growing.poll(at_end=is_over):
            if growing.path != path:
                path = growing.path
                typer.echo(str(path), err=True)
            for wanted in lines_of_rank([line], rank):
                typer.echo(wanted)
        if not is_over:
            time.sleep(FOLLOW_POLL_S)
