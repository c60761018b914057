"""``distrain prove``: exact resume, shown on a user's own run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distrain.errors import ExitCode
from launcher.commands.arguments import JsonOption, RunArgument
from launcher.commands.output import Shown, say, show

if TYPE_CHECKING:
    from launcher.proving.prove import Case, Ordered

WIDTH = 120
"""Of the table."""
SHOWN = 130
"""Characters of what was found; JSON has all of it."""


def prove(  # noqa: PLR0913
    target: RunArgument = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Default: the last one with a checkpoint.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="Trained each time.", min=2)] = 20,
    kills: Annotated[int, typer.Option("--kills", help="On each number of ranks.", min=0)] = 3,
    ranks: Annotated[
        str | None,
        typer.Option("--ranks", help="Such as 1,2,4. Default: its own, and of these what fits."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the kills.")] = 0,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Leave the copies there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Kill copies of a run, and compare each with an undisturbed twin."""
    from launcher.proving.provable import order
    from launcher.proving.prove import prove as make
    from launcher.run_files import find_run

    if keep is not None and keep.exists():
        raise typer.BadParameter(f"--keep {keep} is there already")
    ordered = order(
        find_run(target),
        stage=stage,
        steps=steps,
        kills=kills,
        ranks=None if ranks is None else _numbers(ranks),
        seed=seed,
    )
    cases = make(ordered, say, None if keep is None else keep.absolute())
    proved = all(case.holds for case in cases)
    code = ExitCode.DONE if proved else ExitCode.NOT_PROVED
    text = proof_text(ordered, cases, proved=proved)
    show(
        "prove", Shown(_result(ordered, cases), text, ordered.run, exit_code=code), as_json=as_json
    )


def _numbers(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) for word in words):
        raise typer.BadParameter(f"--ranks {text}: expected numbers of processes, such as 1,2,4")
    return [int(word) for word in words]


def proof_text(ordered: "Ordered", cases: "list[Case]", *, proved: bool) -> str:
    """Write the table and the verdict."""
    from launcher.proving.prove import word_of
    from launcher.text import table

    stretch = ordered.stretch
    rows = [
        (
            case.name,
            str(case.ranks),
            "-" if case.is_control else str(len(case.struck)),
            word_of(case),
            _cut(case.differences[0] if case.differences else case.compared),
        )
        for case in cases
    ]
    header = ("CASE", "RANKS", "KILLS", "OUTCOME", "HOW")
    steps = f"steps {stretch.start + 1} to {stretch.end}"
    where = f"run {ordered.run.root.name}, {stretch.stage}, {steps}, seed {ordered.seed}"
    failed = [case.name for case in cases if not case.holds]
    verdict = "PROVED" if proved else f"NOT PROVED: {'; '.join(failed)}"
    return f"{where}\n{table(header, rows, WIDTH)}\n\n{verdict}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


def _result(ordered: "Ordered", cases: "list[Case]") -> dict[str, Any]:
    stretch = ordered.stretch
    return {
        "stage": stretch.stage,
        "first_step": stretch.start + 1,
        "last_step": stretch.end,
        "own_ranks": ordered.own_ranks,
        "seed": ordered.seed,
        "cases": [case.to_json() for case in cases],
        "proved": all(case.holds for case in cases),
    }
