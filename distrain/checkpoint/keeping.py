"""Which checkpoints of a stage stay on disk: the newest, the best, and those that stages name."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from distrain.checkpoint import removing
from distrain.checkpoint.commit import read_commit
from distrain.checkpoint.layout import Name, committed


class KeptCheckpoints:
    """What one process knows of a stage's checkpoints; rank 0 deletes by it.

    Args:
        folder: The stage's ``checkpoints``.
        keep_last: Newest steps that stay.
        named: Steps that stay however old they are.
    """

    def __init__(self, folder: Path, keep_last: int, named: frozenset[int]) -> None:
        self._folder = folder
        self._keep_last = keep_last
        self._named = named
        self.good: set[Name] = set()
        """Those that this process committed or verified: only they make others superfluous."""
        self.best_step: int | None = None
        """Of the best checkpoint that is known to be on disk."""
        self.rewind_steps: int | None = None
        """How far before the next step training may go back; ``None``: it does not."""

    def retire(self, best: int | None) -> int:
        """Delete what nobody needs any more; returns how many.

        Args:
            best: The step whose checkpoint is the best so far, if one is kept.
        """
        return removing.retire(self._folder, self.good, self._keep_last, self._steps(best))

    def make_room(self, best: int | None) -> bool:
        """Delete all but the newest, the best and the named; returns whether there were any."""
        return removing.make_room(self._folder, self.good, self._steps(best))

    def best_product(self) -> dict[str, Any] | None:
        """Return step and digests of the best checkpoint, if one is kept."""
        names = [name for name in committed(self._folder) if name.step == self.best_step]
        if not names:
            return None
        content = read_commit(self._folder / str(names[-1])).content
        return {"step": names[-1].step, **(asdict(content) if content else {})}

    def _steps(self, best: int | None) -> frozenset[int]:
        present = committed(self._folder)
        # The best of before stays until a better one is on disk: its save may have failed.
        if any(name.step == best for name in present):
            self.best_step = best
        kept = self._named | ({self.best_step} if self.best_step is not None else set())
        return kept if self.rewind_steps is None else kept | self._rewind_target(present)

    def _rewind_target(self, present: list[Name]) -> set[int]:
        """Return the step to which a spike of the very next step would lead back."""
        steps = [name.step for name in present if name in self.good]
        limit = max(0, max(steps, default=0) - (self.rewind_steps or 0))
        return set([step for step in steps if step <= limit][-1:])
