"""What earlier attempts of a stage have shown: how long its phases take from mark to mark.

Kept beside the stage's other records, so that an attempt that halts before it has learned anything
is found by what the ones before it took.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from distrain.runs.folder import StageFolder
from distrain.runs.progress_page import PHASES, Page
from distrain.runs.records import read_json, write_json

LONGEST = "longest_s"


def read_remembered(folder: StageFolder) -> dict[str, float]:
    """Return the longest time between two marks that any attempt had, by phase."""
    try:
        found = (read_json(folder.watched) or {}).get(LONGEST, {})
        return {str(phase): float(took_s) for phase, took_s in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # it only bounds a wait: without it, ``first`` does


def remember(folder: StageFolder, known: Mapping[str, float], pages: Sequence[Page]) -> None:
    """Add what an attempt has shown, if each of its ranks has made a step."""
    if not pages or not all(page.has_made_a_step for page in pages):
        return
    took = {phase: max(page.longest_s[phase] for page in pages) for phase in PHASES}
    longest = {
        phase: round(max(took_s, known.get(phase, 0.0)), 3)
        for phase, took_s in took.items()
        if took_s or phase in known
    }
    if longest != dict(known):
        with suppress(OSError):
            write_json(folder.watched, {LONGEST: longest})
