"""``python -m benchmarks.scorecard``: draw faults, case by case, until each has as many as asked.

Ended at any moment, the next call goes on. ``--write`` puts the table into docs/reliability.md.
"""

import argparse
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from benchmarks.scorecard.cases import CASES, RECIPE, Case
from benchmarks.scorecard.state import State
from benchmarks.scorecard.table import text_of, write_page
from distrain.runs.folder import RunFolder
from launcher import planning
from launcher.proving.chaos import ON_ONE_MACHINE, Chaos, ChaosSettings, StageVerdict

PACKAGES = ("json", "email", "logging", "http", "html", "urllib")
STAGE = "pretrain"
AT_ONCE = 5
"""Draws by the clock between two writes of the state."""


def main() -> int:
    """Draw, print the table; the code is 1 if a draw did not pass."""
    arguments = parse()
    folder: Path = arguments.folder
    state = State(folder / "state.json")
    recipe = write_recipe(folder)
    for case in CASES:
        if arguments.cases and case.number not in arguments.cases:
            continue
        while not arguments.write and state.of(case.number).drawn < arguments.draws:
            draw(case, recipe, folder, state, arguments.draws)
    text = text_of(state, arguments.draws)
    sys.stdout.write(text + "\n")
    if arguments.write:
        write_page(text)
    return int(any(tally.passed < tally.drawn for tally in state.tallies.values()))


def draw(case: Case, recipe: Path, folder: Path, state: State, draws: int) -> None:
    """Run one case once, with a few faults, and write down what came of it."""
    tally = state.of(case.number)
    left = draws - tally.drawn
    count = 1 if case.each else min(AT_ONCE, left)
    settings = ChaosSettings(
        case.kinds,
        case.mean_s,
        seed=7 if case.each else 7 + tally.drawn,  # faults of a step are the twin's, too
        stages=(STAGE,),
        count=count if case.number != "39" else left,
        each=case.each,
        in_steps="kill-resume" not in case.kinds and case.number != "39",
    )
    scratch = folder / ("-".join(["twin", case.number] if case.each else ["twin"]))
    scratch.mkdir(exist_ok=True)
    overrides = list(case.overrides)
    loaded = planning.load(str(recipe), [*overrides, *ON_ONE_MACHINE])
    plan = planning.plan_recipe(loaded.recipe, RunFolder(scratch / loaded.recipe.name))
    say(f"case {case.number}, {case.what}: {tally.drawn} of {draws}")
    (verdict,) = Chaos(str(recipe), overrides, plan, settings, scratch, say).run()
    count_in(state, case, verdict)
    if verdict.folder:  # out of the way of the next run, for whoever looks into it
        failed = folder / f"failed-{case.number}-{tally.drawn}"
        shutil.move(Path(verdict.folder).parent, failed)


def count_in(state: State, case: Case, verdict: StageVerdict) -> None:
    """Add a run to what is known of its case."""
    tally = state.of(case.number)
    came = verdict.planned if case.each and case.number != "39" else verdict.faults
    tally.drawn += len(came)
    tally.passed += 0 if verdict.differences else len(came)
    tally.lost_s += [fault.lost_s for fault in verdict.faults if fault.lost_s is not None]
    tally.found_s += [age_s for fault in verdict.faults for age_s in fault.found_s]
    tally.starts_s += verdict.starts_s
    tally.load.append(os.getloadavg()[0])
    tally.problems += verdict.differences
    state.save()
    for problem in verdict.differences:
        say(f"case {case.number}: {problem}")


def write_recipe(folder: Path) -> Path:
    """Write the recipe and its corpus, the same on every call."""
    corpus, library = folder / "corpus", Path(sysconfig.get_path("stdlib"))
    corpus.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        for module in sorted((library / package).glob("*.py")):
            target = corpus / f"{package}_{module.name}"
            if not target.exists():
                shutil.copy(module, target)
    path = folder / "scorecard.yaml"
    path.write_text(RECIPE.format(corpus=corpus))
    return path


def say(line: str) -> None:
    """Show progress."""
    sys.stderr.write(line + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorecard", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs", ".scorecard").absolute())
    parser.add_argument("--draws", type=int, default=20, help="of each case")
    parser.add_argument("--write", action="store_true", help="draw nothing; write the page")
    parser.add_argument("cases", nargs="*", help="numbers; all by default")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
