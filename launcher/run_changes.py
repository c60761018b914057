"""A run that goes on with an edited recipe: what changed, and what was already built on."""

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distrain.config.recipe import Recipe, TrainStage
from distrain.errors import PreflightError
from distrain.runs.folder import STEP_PREFIX, RunFolder
from distrain.runs.lock import is_held
from distrain.runs.records import done_stages, read_json
from launcher.text import plural

SHOWN_CHANGES = 5

FIXED_SECTIONS = frozenset(
    {
        "kind",
        "needs",
        "from_checkpoint",
        "model",
        "data",
        "tokenizer",
        "pairs",
        "lora",
        "preference",
    }
)
FIXED_KEYS = frozenset(
    {
        "training.sequence_length",
        "training.global_batch_size",
        "training.task",
        "eval.max_batches",
        "optimizer.name",
        "optimizer.min_8bit_size",
    }
)
"""What a begun stage has built on: its data, its model, what that is trained for, which samples a
step takes and a validation measures, whose state its checkpoints hold. What else changes that
state, ``OptimizerConfig.keeps`` tells."""
NEUTRAL_SECTIONS = frozenset({"logging", "checkpoint"})
"""What leaves no trace in what a finished stage made."""
WHOLE_RUN = ("version", "seed")
"""Keys beside the stages that every begun stage has built on."""
SCHEDULED_KEYS = (
    "data.mixture",
    "data.max_epochs",
    "data.prefetch",
    "data.num_threads",
    "training.global_batch_size",
)
"""What a pretraining stage may change all the same: the schedule that its checkpoints hold says
from which sample on, so none is lost or repeated; or it changes no batch."""


@dataclass(frozen=True)
class Change:
    """One value that differs between two recipes."""

    key: str
    """As in an override: ``seed``, or ``pretrain.training.max_steps``."""
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.old)} -> {_shown(self.new)}"


def compare_recipes(old: Recipe, new: Recipe) -> list[Change]:
    """Return every value that differs, in the order of the recipe."""
    before, after = dict(_leaves(old.model_dump())), dict(_leaves(new.model_dump()))
    return [
        Change(key.removeprefix("stages."), before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def refuse_built_on(run: RunFolder, old: Recipe, new: Recipe) -> list[Change]:
    """Return what changed between two recipes, unless a begun or finished stage built on it.

    Raises:
        PreflightError: One did; names each value and the stage.
    """
    changes = compare_recipes(old, new)
    names = dict.fromkeys([*old.stages, *new.stages])
    done = done_stages(run, names)
    begun = {name for name in names if name in done or has_begun(run, name)}
    built_on = [
        (change, by)
        for change in changes
        if not _is_scheduled(change.key, new, done)
        and (by := _built_on_by(change, old, begun, done, run))
    ]
    if built_on:
        raise _refusal(run, built_on)
    for change in changes:
        _check_length(run, new, change, begun)
    return changes


def _refusal(run: RunFolder, built_on: list[tuple[Change, str]]) -> PreflightError:
    shown = "; ".join(f"{change}, which {by}" for change, by in built_on[:SHOWN_CHANGES])
    more = len(built_on) - SHOWN_CHANGES
    if more > 0:
        shown += "; and " + plural(more, "more value")
    settings = " ".join(
        shlex.quote(f"{change.key}={_shown(change.new)}")
        for change, _ in built_on[:SHOWN_CHANGES]
        if change.key != "name"
    )
    command = f"distrain run {shlex.quote(str(run.resolved))} name=OTHER {settings}".rstrip()
    return PreflightError(
        f"run {run.root.name}",
        f"a change of {shown}",
        "changes of launch, or of what no begun or finished stage has built on",
        f"Put it back to go on with this run, or start one of its own: `{command}`.",
    )


def has_begun(run: RunFolder, name: str) -> bool:
    """Return whether a changed setting would invalidate existing output.

    One that was refused, or fell before its first checkpoint, has not: the remedy it was given
    may be to change just that. ``prepare`` itself discards parts that were made otherwise. One
    that runs now has read its recipe, so it counts whatever it has made.
    """
    folder = run.stage(name)
    state = read_json(folder.state)
    has_steps = state is not None and state["step"] > 0
    return has_steps or any(folder.checkpoints.glob(f"{STEP_PREFIX}*")) or is_held(folder.lock)


def _built_on_by(
    change: Change, old: Recipe, begun: Collection[str], done: Collection[str], run: RunFolder
) -> str:
    """Say which stage has built on a value, and how far it is; empty: none has."""
    stage, _, rest = change.key.partition(".")
    if stage == "name":
        return f"names the folder {run.root.name}"
    if stage in WHOLE_RUN:
        stages = sorted(begun, key=lambda name: name not in done)
        return _has_built(stages[0], done) if stages else ""
    section = rest.partition(".")[0]
    if stage in done:
        return "" if section in NEUTRAL_SECTIONS else _has_built(stage, done)
    if stage not in begun:
        return ""
    is_fixed = section in FIXED_SECTIONS or rest in FIXED_KEYS or _is_of_state(change, old)
    return _has_built(stage, done) if is_fixed else ""


def _is_of_state(change: Change, old: Recipe) -> bool:
    """Whether a setting decides which tensors an optimizer keeps, as momentum does above 0."""
    name, _, rest = change.key.partition(".")
    section, _, setting = rest.partition(".")
    stage = old.stages.get(name)
    if not isinstance(stage, TrainStage) or section != "optimizer":
        return False
    changed = stage.optimizer.model_copy(update={setting: change.new})
    return changed.keeps != stage.optimizer.keeps


def _has_built(stage: str, done: Collection[str]) -> str:
    return f"stage {stage} has built on ({'done' if stage in done else 'begun'})"


def _is_scheduled(key: str, recipe: Recipe, done: Collection[str]) -> bool:
    stage, _, rest = key.partition(".")
    if stage in done or stage not in recipe.stages or recipe.stages[stage].kind != "pretrain":
        return False
    return any(rest == known or rest.startswith(f"{known}.") for known in SCHEDULED_KEYS)


def _check_length(run: RunFolder, recipe: Recipe, change: Change, begun: Collection[str]) -> None:
    """Refuse another batch size where the number of steps follows from it.

    Counted in steps of the new size from the first one on, the stage would end where nobody means
    it to.

    Raises:
        PreflightError: It is so; says how many steps are left.
    """
    name, _, key = change.key.partition(".")
    if name not in begun or key != "training.global_batch_size":
        return
    training = recipe.stages[name].training  # type: ignore[union-attr]
    if training.max_steps is not None:
        return
    length = "max_tokens" if training.max_tokens is not None else "num_epochs"
    made = (read_json(run.stage(name).state) or {"step": 0})["step"]
    planned = (read_json(run.stage(name).data) or {"max_steps": made})["max_steps"]
    steps = made + max(0, planned - made) * change.old // change.new
    raise PreflightError(
        f"run {run.root.name}",
        f"the change {change}, with training.{length}",
        "a length in steps: the batch size was another one before",
        f"Add {name}.training.max_steps={steps} {name}.training.{length}=null: after {made} "
        f"steps, what is left of the {planned} planned ones are {steps - made} of the new size.",
    )


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _shown(value: Any) -> str:  # noqa: ANN401  (any value of a recipe)
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(str, value)) + "]"
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
