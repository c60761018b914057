"""Texts that a model wrote while it was trained, prompt by prompt. Pure.

They are whatever came out, so what is shown of them is short, and control characters are written
out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distrain.runs.records import STEP
from launcher.report.data import Fields, StageRecords, number
from launcher.report.text import UNKNOWN, integer, visible

TIMES_SHOWN = 8
"""Of one prompt: the first time, the last one, and others evenly between them."""
PROMPT_CHARACTERS, TEXT_CHARACTERS = 300, 400
ENDS = {"stop": "ended", "length": "cut"}


@dataclass(frozen=True)
class SampleText:
    """What was written at one time."""

    step: str
    text: str
    ended: str


@dataclass(frozen=True)
class PromptSamples:
    """What was written to one prompt."""

    prompt: str
    texts: tuple[SampleText, ...]


def samples_shown(stage: StageRecords) -> tuple[list[PromptSamples], str]:
    """Choose texts of each prompt, in the order of the steps; also return a note."""
    found: dict[str, list[Fields]] = {}
    for record in stage.samples:
        if number(record.get(STEP)) is not None and isinstance(record.get("text"), str):
            found.setdefault(str(record.get("prompt")), []).append(record)
    chosen = [
        PromptSamples(
            visible(prompt, PROMPT_CHARACTERS),
            tuple(map(_text, evenly(records, TIMES_SHOWN))),
        )
        for prompt, records in found.items()
    ]
    times = max(map(len, found.values()), default=0)
    note = f"{TIMES_SHOWN} of {times} times." if times > TIMES_SHOWN else ""
    return chosen, note


def evenly(records: Sequence[Fields], most: int) -> list[Fields]:
    """Choose at most so many, the first and the last among them."""
    if len(records) <= most:
        return list(records)
    last = len(records) - 1
    return [records[round(turn * last / (most - 1))] for turn in range(most)]


def _text(record: Fields) -> SampleText:
    return SampleText(
        integer(number(record.get(STEP))),
        visible(str(record["text"]), TEXT_CHARACTERS),
        ENDS.get(str(record.get("ended")), UNKNOWN),
    )
