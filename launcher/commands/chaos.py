"""The command that lets a recipe train under faults: ``chaos``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.commands.arguments import JsonOption, OverridesArgument, RecipeArgument
from launcher.commands.output import Shown, results_apart, say, show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from launcher.proving.chaos import ChaosSettings, StageVerdict
    from launcher.proving.rounds import Struck

FAULTS = "kill,hang,slow,nan,spike,exception,corrupt"


def chaos(  # noqa: PLR0913  (the grammar of the command)
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    faults: Annotated[
        str, typer.Option("--faults", metavar="KINDS", help="Which, with commas between.")
    ] = FAULTS,
    mean: Annotated[str, typer.Option("--mean", help="Mean time between two faults.")] = "20s",
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 7,
    stage: Annotated[
        list[str] | None,
        typer.Option("--stage", metavar="STAGE", help="A stage that trains (repeatable)."),
    ] = None,
    ranks: Annotated[int | None, typer.Option("--ranks", help="Processes of a stage.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", help="Faults by the clock, of each stage at least.")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Train a little otherwise: must end with code 8.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train under faults, and compare with an undisturbed twin."""
    from launcher.proving.scratch import make_scratch
    from launcher.run_files import runs_dir

    settings = _settings(faults, mean, (seed, count), tuple(stage or ()), control)
    more = [f"launch.processes_per_node={ranks}"] if ranks is not None else []
    scratch = make_scratch(runs_dir(), "chaos")
    with results_apart(as_json):
        verdicts = _run(recipe, [*(overrides or ()), *more], settings, scratch)
    show("chaos", _shown(verdicts, settings), as_json=as_json)


def _settings(
    faults: str,
    mean: str,
    numbers: tuple[int, int | None],
    stages: tuple[str, ...],
    control: bool,
) -> "ChaosSettings":
    from distrain.config.section import parse_duration
    from launcher.proving.blows import BLOWS
    from launcher.proving.chaos import ChaosSettings
    from launcher.proving.draws import BY_STEP

    kinds = tuple(dict.fromkeys(word.strip() for word in faults.split(",") if word.strip()))
    unknown = [kind for kind in kinds if kind not in BLOWS and kind not in BY_STEP]
    if unknown or not kinds:
        raise typer.BadParameter(
            f"found {unknown[0] if unknown else 'none'}; expected some of "
            f"{', '.join([*BLOWS, *BY_STEP])}.",
            param_hint="--faults",
        )
    try:
        mean_s = float(parse_duration(mean))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--mean") from error
    if mean_s <= 0:
        raise typer.BadParameter(f"found {mean}; expected a time above 0.", param_hint="--mean")
    seed, count = numbers
    return ChaosSettings(kinds, mean_s, seed, stages, count, control=control)


def _run(
    recipe: str, overrides: "Sequence[str]", settings: "ChaosSettings", scratch: "Path"
) -> "list[StageVerdict]":
    import shutil

    from distrain.errors import ProofError
    from distrain.runs.folder import RunFolder
    from launcher import planning
    from launcher.proving.chaos import ON_ONE_MACHINE, Chaos

    kept = False
    try:
        loaded = planning.load(recipe, [*overrides, *ON_ONE_MACHINE])
        plan = planning.plan_recipe(loaded.recipe, RunFolder(scratch / loaded.recipe.name))
        verdicts = Chaos(recipe, overrides, plan, settings, scratch, say).run()
        kept = any(verdict.differences for verdict in verdicts)
    except ProofError:
        kept = True  # the message says where to look
        raise
    finally:
        if not kept:
            shutil.rmtree(scratch)
    return verdicts


def _shown(verdicts: "Sequence[StageVerdict]", settings: "ChaosSettings") -> Shown:
    from distrain.errors import ExitCode

    differ = any(verdict.differences for verdict in verdicts)
    return Shown(
        {"seed": settings.seed, "stages": [verdict_json(verdict) for verdict in verdicts]},
        "\n\n".join(verdict_text(verdict) for verdict in verdicts),
        exit_code=ExitCode.NOT_PROVED if differ else ExitCode.DONE,
    )


def verdict_json(verdict: "StageVerdict") -> dict[str, Any]:
    """Return what came of a stage for JSON."""
    return {
        "stage": verdict.stage,
        "equal": not verdict.differences,
        "differences": verdict.differences,
        "steps": verdict.steps,
        "rounds": len(verdict.rounds),
        "twin_s": round(verdict.twin_s, 2),
        "seconds": round(verdict.seconds, 2),
        "planned": verdict.planned,
        "faults": [_fault_json(struck) for struck in verdict.faults],
        "folder": verdict.folder or None,
    }


def verdict_text(verdict: "StageVerdict") -> str:
    """Write what came of a stage: each fault, when it came, what followed, what it cost."""
    from launcher.text import plural, short_duration, table

    lines = [
        f"{verdict.stage}: {plural(verdict.steps, 'step')}, "
        f"{plural(len(verdict.faults), 'fault')} by the clock, {len(verdict.planned)} by step, "
        f"in {plural(len(verdict.rounds), 'round')}, {short_duration(verdict.seconds)} "
        f"(the twin {short_duration(verdict.twin_s)})"
    ]
    rows = [
        _row(number, struck)
        for number, round_ in enumerate(verdict.rounds, start=1)
        for struck in round_
    ]
    rows += [("in twin", what, "", followed, "") for what, followed in verdict.planned.items()]
    if rows:
        lines.append(table(("AFTER", "FAULT", "WHERE", "WHAT FOLLOWED", "LOST"), rows, 120))
    lines += [f"different: {difference}" for difference in verdict.differences]
    lines.append(
        f"NOT EQUAL to the twin; both are kept in {verdict.folder}"
        if verdict.differences
        else "equal to the twin, bit for bit"
    )
    return "\n".join(lines)


def _fault_json(struck: "Struck") -> dict[str, Any]:
    return {
        "kind": struck.kind,
        "what": struck.what,
        "step": struck.step,
        "after_s": round(struck.after_s, 2),
        "followed": struck.followed,
        "lost_s": None if struck.lost_s is None else round(struck.lost_s, 2),
    }


def _row(number: int, struck: "Struck") -> tuple[str, ...]:
    followed = "; ".join(struck.followed) or "nothing"
    lost = "" if struck.lost_s is None else f"{struck.lost_s:.1f}s"
    return f"{number}: {struck.after_s:.1f}s", struck.kind, struck.what, followed, lost
