"""Which checkpoints may go: a pure function."""

from collections.abc import Collection

from distrain.checkpoint.layout import Name


def expired(
    present: Collection[Name],
    good: Collection[Name],
    keep_last: int,
    keep_steps: Collection[int] = (),
) -> list[Name]:
    """Choose what may be deleted: what is older than the ``keep_last`` newest good steps.

    Only checkpoints known to be good count, so a damaged one never pushes out the last good one,
    and nothing goes before something newer is committed. A second save of a step replaces the
    first.

    Args:
        present: Every checkpoint in the folder.
        good: Those that this process committed or verified.
        keep_last: Steps to keep, at least 1.
        keep_steps: Steps that stay however old they are.

    Returns:
        Oldest first, so that a crash in between leaves the newer ones.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last is {keep_last}; at least one checkpoint must stay")
    newest_of_step: dict[int, Name] = {}
    for name in sorted(set(good) & set(present)):
        newest_of_step[name.step] = name
    kept = sorted(newest_of_step.values())[-keep_last:]
    superseded = {
        name for name in present if name.step in newest_of_step and name < newest_of_step[name.step]
    }
    outdated = {
        name
        for name in present
        if len(kept) == keep_last and name < kept[0] and name.step not in keep_steps
    }
    return sorted(superseded | outdated)
