"""A run made short on the command line: warm-up and decay of the recipe are cut to fit."""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import ValidationError

from distrain.config.layout import count_steps
from distrain.config.reading.yaml_source import Tree, plain
from distrain.config.schedules import LrSchedulerConfig, WsdLrConfig
from distrain.config.section import Section
from distrain.config.training import RUN_LENGTHS, TrainingConfig


def fit_schedules(stages: Mapping[str, Tree]) -> tuple[dict[str, Tree], list[str]]:
    """Cut what the recipe says of the schedule to a length that was typed.

    A smoke run is one override, ``training.max_steps=4``. What was typed itself is left alone: it
    is judged as it stands.

    Returns:
        The stages, and a note for each value that was cut.
    """
    result, notes = dict(stages), []
    for name, stage in stages.items():
        steps, section = _typed_steps(stage), stage.mapping.get("lr_scheduler")
        schedule = _read(LrSchedulerConfig, section)
        if steps is None or section is None or not isinstance(schedule, LrSchedulerConfig):
            continue
        # Half of the run, so that some steps are made at the full rate.
        warmup = schedule.warmup(steps)
        fitting = {"warmup_steps": min(warmup, steps // 2)} if warmup > steps else {}
        if isinstance(schedule, WsdLrConfig) and schedule.decay_steps is not None:
            left = max(1, steps - fitting.get("warmup_steps", warmup))
            fitting |= {"decay_steps": left} if schedule.decay_steps > left else {}
        cut = dict(section.mapping)
        for key, value in fitting.items():
            old = cut.get(key)
            if old is None or old.place.is_override:
                continue
            place = _length(stage).place
            cut[key] = Tree(value, place, place, str(value))
            notes.append(
                f"{name}: lr_scheduler.{key} {old.raw} -> {value}, to fit into {steps} steps"
            )
        result[name] = replace(
            stage, value={**stage.mapping, "lr_scheduler": replace(section, value=cut)}
        )
    return result, notes


def _length(stage: Tree) -> Tree:
    """Return the value that says how long the stage is; a missing one is judged elsewhere."""
    training = stage.mapping.get("training", stage)
    given = [training.mapping[key] for key in RUN_LENGTHS if key in training.mapping]
    return next((item for item in given if item.value is not None), stage)


def _typed_steps(stage: Tree) -> int | None:
    """Return the steps of a stage whose length was typed; ``None`` for any other."""
    training = _read(TrainingConfig, stage.mapping.get("training"))
    is_typed = _length(stage).place.is_override
    return count_steps(training) if is_typed and isinstance(training, TrainingConfig) else None


def _read(model: type[Section], section: Tree | None) -> Section | None:
    """Read a section; ``None`` if it is not there, or has a mistake that is reported later."""
    try:
        return None if section is None else model.model_validate(plain(section), strict=True)
    except ValidationError:
        return None
