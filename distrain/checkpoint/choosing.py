"""Finding the newest checkpoint that is whole, and putting aside those that are not."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from distrain.checkpoint.agreement import agree, on_first
from distrain.checkpoint.commit import verify
from distrain.checkpoint.layout import Name, committed, remove_leftovers
from distrain.parallel.collectives import HostGroup
from distrain.runs import durable

logger = logging.getLogger(__name__)


def newest_good(folder: Path) -> Path | None:
    """Find the newest whole checkpoint of another stage, in this process alone.

    Damaged ones are passed over but stay where they are: only the stage that writes the folder
    may change it.
    """
    for name in reversed(committed(folder)):
        reason = verify(folder / str(name))
        if reason is None:
            return folder / str(name)
        logger.warning("passing over checkpoint %s: %s", folder / str(name), reason)
    return None


def choose_newest_good(
    folder: Path,
    quarantine: Path,
    host: HostGroup,
    on_quarantined: Callable[[Name, str], None],
    judge: Callable[[Path], str | None],
) -> Name | None:
    """Find the newest whole checkpoint; move damaged ones to ``quarantine``. Collective.

    Each rank digests its share of the files.

    Args:
        folder: The stage's ``checkpoints``, which this run writes.
        quarantine: Where damaged ones go, for somebody to look at.
        host: The ranks that read together.
        on_quarantined: Called on every rank with what was moved and why.
        judge: Says on rank 0 of one whose bytes are whole why it will not do all the same.
    """
    for name in reversed(on_first(host, lambda: _tidy(folder))):
        path = folder / str(name)
        reasons = agree(host, partial(verify, path, part=host.rank, num_parts=host.world_size))
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is None:
            reason = on_first(host, partial(judge, path))
        if reason is None:
            return name
        on_first(host, partial(put_aside, path, quarantine))
        on_quarantined(name, reason)
    return None


def _tidy(folder: Path) -> list[Name]:
    remove_leftovers(folder)
    return committed(folder)


def put_aside(path: Path, quarantine: Path) -> Path:
    """Move a damaged checkpoint, or the link to one; an earlier one of the same name stays.

    Returns:
        Where it lies now.
    """
    quarantine.mkdir(parents=True, exist_ok=True)
    target = quarantine / path.name
    number = 1
    while target.exists() or target.is_symlink():
        target = quarantine / f"{path.name}-{number}"
        number += 1
    if path.is_symlink():  # moved, one that counts from its own folder would lead elsewhere
        target.symlink_to(path.resolve())
        path.unlink()
    else:
        durable.move_folder(path, target)
    return target
