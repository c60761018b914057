"""Examples in ``distrain data seen``: those that a step trained on, and the steps of one."""

from collections.abc import Iterator
from typing import Any

from distrain.config.recipe import Recipe
from distrain.data.samples.seen_examples import ExamplePlace
from distrain.runs.folder import RunFolder
from distrain.tools.example_reading import ExampleReading

Record = dict[str, Any]


def examples_seen(
    run: RunFolder, recipe: Recipe, stage: str, step: int | None, document: str
) -> Iterator[Record]:
    """Yield a record of what was asked for, then one of each example.

    Args:
        run: The run.
        recipe: Its recipe.
        stage: That fine-tunes; the two answers of a preference are examples of one place.
        step: From 1; ``None``: ``document`` is asked for.
        document: Where the example was read.

    Raises:
        NotFoundError: There is no such step or example.
        DataError: The examples are not those that the stage reads.
    """
    reading = ExampleReading(run, recipe, stage)
    yield from _of_example(reading, document) if step is None else _of_step(reading, step)


def _of_step(reading: ExampleReading, step: int) -> Iterator[Record]:
    is_made = reading.is_made(step)
    places = reading.ledger.places_of_step(step - 1)
    targets = sum(place.num_targets for place in places)
    yield reading.head_of_step(step, is_made=is_made, targets=targets) | {
        "examples": len({(place.source, place.example) for place in places}),
    }
    for place in places:
        path = reading.path_of(place.source, place.example)
        yield {"source": place.source, "example": place.example, "path": path} | _where(place)


def _of_example(reading: ExampleReading, wanted: str) -> Iterator[Record]:
    schedule = reading.feed.schedule
    found = reading.find(wanted)
    yield {
        "stage": reading.stage,
        "steps_made": reading.steps_made,
        "examples": [
            {"source": source, "example": number, "path": reading.path_of(source, number)}
            for source, number in found
        ],
    }
    for source, number in found:
        for place in reading.ledger.places_of_example(source, number, reading.steps_made):
            # People count steps from 1, the schedule from 0.
            step = schedule.step_of(place.sample) + 1
            left_out = reading.is_left_out(place.sample)
            found_at = {"source": source, "example": number, "step": step, "left_out": left_out}
            yield found_at | _where(place)


def _where(place: ExamplePlace) -> Record:
    return {
        "sample": place.sample,
        "epoch": place.epoch,
        "first_position": place.first,
        "stop_position": place.stop,
        "targets": place.num_targets,
    }
