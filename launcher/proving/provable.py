"""Which stage of a run can be proved, from which step on, and on how many ranks."""

from collections.abc import Sequence

from distrain.config.reading.load import read_resolved
from distrain.config.recipe import Recipe, TrainStage
from distrain.errors import NotFoundError, PreflightError, RecipeError
from distrain.runs.folder import RunFolder
from distrain.runs.lock import is_held
from distrain.runs.records import read_json
from launcher.backends.backend import jobs_of_runs, running_stages
from launcher.plan import make_plan
from launcher.proving.prove import Ordered
from launcher.proving.scratch import checkpoints_of
from launcher.proving.stretch import Stretch

RANKS = (1, 2, 4)
"""Tried by default, as far as the recipe can be laid out on them."""
SAVES = 4
"""Checkpoints within a stretch: kills lead back to one of them."""
MIN_STEPS = 2


def order(
    run: RunFolder,
    *,
    stage: str | None,
    steps: int,
    kills: int,
    ranks: Sequence[int] | None,
    seed: int,
) -> Ordered:
    """Decide what is proved.

    Args:
        run: Of the user.
        stage: Its name; ``None``: the last one with a checkpoint.
        steps: As many as are left, at most about so many.
        kills: On each number of ranks.
        ranks: ``None``: ``RANKS``, as far as that goes.
        seed: Of the kills.

    Raises:
        PreflightError: The run is running, or nothing can be proved of it yet.
        NotFoundError: It has no such stage.
        RecipeError: It cannot be laid out on so many ranks.
    """
    recipe = read_resolved(run.resolved)
    _refuse_running(run, recipe)
    name = _choose_stage(run, recipe, stage)
    folder = run.stage(name)
    data = read_json(folder.data)
    if data is None:
        raise _nothing_yet(run, name, "no step so far")
    saved = [step for step, _ in checkpoints_of(folder)]
    found = choose_stretch(saved, int(data["max_steps"]), steps)
    if found is None:
        raise _nothing_yet(
            run,
            name,
            f"checkpoints of steps {saved} of {data['max_steps']}: none has {MIN_STEPS} steps left",
        )
    own = int((data.get("computed_on") or read_json(folder.result) or {}).get("ranks", 1))
    stretch = Stretch(name, *found)
    if ranks is None and not _fits_any_ranks(recipe, name):
        ranks = [own]
    return Ordered(run, recipe, stretch, own, _choose_ranks(recipe, run, own, ranks), kills, seed)


def choose_stretch(saved: Sequence[int], total: int, wanted: int) -> tuple[int, int, int] | None:
    """Choose a checkpoint to begin from. Pure.

    The newest with as many steps left as are wanted, else the one with the most.

    Args:
        saved: Steps of the checkpoints.
        total: Steps of the stage.
        wanted: At least ``MIN_STEPS``.

    Returns:
        First step, last step and steps between two checkpoints; ``None``: too little is left.
    """
    left = {step: total - step for step in saved if total - step >= MIN_STEPS}
    if not left:
        return None
    enough = [step for step, rest in left.items() if rest >= wanted]
    start = max(enough) if enough else min(left)
    length = min(max(wanted, MIN_STEPS), left[start])
    every = max(1, length // SAVES)
    # The stage saves after multiples of ``every``: the stretch ends after one, up if it can.
    end = -(-(start + length) // every) * every
    if end > total:
        end = (start + length) // every * every
    return (start, end, every) if end > start else (start, start + length, 1)


def _refuse_running(run: RunFolder, recipe: Recipe) -> None:
    (queued,) = jobs_of_runs([run])
    running = [*running_stages(run, recipe), *(job.job for job in queued.jobs if job.is_live)]
    if not running and not is_held(run.lock):
        return
    raise PreflightError(
        f"run {run.root.name}",
        f"that it is running ({', '.join(running) or 'its launcher is at work'})",
        "a run at rest, whose checkpoints and records belong together",
        f"Wait for its end, or `distrain stop {run.root.name}`, then ask again.",
    )


def _choose_stage(run: RunFolder, recipe: Recipe, wanted: str | None) -> str:
    trained = [name for name, stage in recipe.stages.items() if isinstance(stage, TrainStage)]
    if wanted is not None and wanted not in recipe.stages:
        names = ", ".join(recipe.stages)
        raise NotFoundError(
            f"stage {wanted}", "no such stage", f"one of: {names}", "Name a stage of the run."
        )
    if wanted is not None and wanted not in trained:
        raise PreflightError(
            f"stage {wanted}",
            f"kind {recipe.stages[wanted].kind}, which takes no steps",
            f"a stage that trains ({', '.join(trained) or 'this run has none'})",
            "Name one of these with --stage.",
        )
    begun = [name for name in trained if checkpoints_of(run.stage(name))]
    if wanted is not None and wanted in begun:
        return wanted
    if wanted is not None or not begun:
        raise _nothing_yet(run, wanted or "any stage", "no checkpoint")
    return begun[-1]


def _fits_any_ranks(recipe: Recipe, name: str) -> bool:
    stage = recipe.stages[name]
    assert isinstance(stage, TrainStage), "chosen among those"
    return not stage.optimizer.kept.of_shards


def _choose_ranks(
    recipe: Recipe, run: RunFolder, own: int, wanted: Sequence[int] | None
) -> tuple[int, ...]:
    if wanted is not None:
        for ranks in wanted:
            _lay_out(recipe, run, ranks)
        return tuple(dict.fromkeys(wanted))
    fitting = [own]
    for ranks in RANKS:
        try:
            _lay_out(recipe, run, ranks)
        except RecipeError:
            continue
        fitting.append(ranks)
    return tuple(dict.fromkeys(fitting))


def _lay_out(recipe: Recipe, run: RunFolder, ranks: int) -> None:
    launch = recipe.launch.model_copy(update={"nodes": 1})
    make_plan(recipe.model_copy(update={"launch": launch}), run, ranks)


def _nothing_yet(run: RunFolder, stage: str, found: str) -> PreflightError:
    return PreflightError(
        f"{stage} of run {run.root.name}",
        found,
        f"a checkpoint with at least {MIN_STEPS} steps to go",
        "Let it train until one is saved before its last step (checkpoint.save_steps), and keep it "
        "(checkpoint.keep_last), then ask again.",
    )
