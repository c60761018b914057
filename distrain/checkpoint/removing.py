"""Deleting checkpoints that nobody needs any more."""

import logging
from collections.abc import Collection
from pathlib import Path

from distrain.checkpoint.layout import Name, committed, remove_leftovers
from distrain.checkpoint.retention import expired
from distrain.fault.page import in_file_system
from distrain.runs import durable

logger = logging.getLogger(__name__)


def retire(
    folder: Path, good: Collection[Name], keep_last: int, keep_steps: Collection[int] = ()
) -> int:
    """Delete what ``expired`` allows; one that cannot be deleted is only warned of.

    Returns:
        How many were deleted.
    """
    removed = 0
    for name in expired(committed(folder), good, keep_last, keep_steps):
        try:
            remove(folder, name)
        except OSError as error:
            logger.warning("checkpoint %s could not be removed: %s", name, error)
        else:
            removed += 1
    return removed


def make_room(folder: Path, good: Collection[Name], keep_steps: Collection[int] = ()) -> bool:
    """Delete all that a run can do without: leftovers, and all but the newest good checkpoint.

    What is kept for another reason than its age stays.

    Returns:
        Whether there was any of it.
    """
    with in_file_system():
        leftovers = remove_leftovers(folder)
    removed = retire(folder, good, 1, keep_steps)
    if removed:
        logger.warning("no room for a checkpoint: %d older ones were deleted", removed)
    return removed + leftovers > 0


def remove(folder: Path, name: Name) -> None:
    """Delete a checkpoint, or the link to one, so that a crash leaves no half under its name."""
    hidden = folder / name.hidden_for_deleting()
    with in_file_system():
        durable.move_folder(folder / str(name), hidden)
        durable.remove(hidden)
