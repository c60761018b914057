"""Names inside a stage's ``checkpoints`` folder, and which checkpoints are there.

``step_000100`` is committed; a second save of the same step is ``step_000100.1``. Everything that
is not finished, or no longer wanted, has a hidden name: a reader never meets it half-done.
"""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from distrain.runs import durable
from distrain.runs.folder import STEP_PREFIX

METADATA = ".metadata"
"""DCP's index of tensors and chunks."""
EXTRA = "extra.json"
"""What belongs to a step besides tensors."""
COMMIT = "commit.json"
"""Written last; see ``commit.py``."""

_SAVING = ".saving-"
_DELETING = ".deleting-"
_NAME = re.compile(STEP_PREFIX + r"(\d{6,})(?:\.(\d+))?")


@dataclass(frozen=True, order=True)
class Name:
    """Which checkpoint: ordered from old to new.

    Args:
        step: The optimizer step that it follows.
        copy: 0 for the first save of the step, then counted up; a folder is never written twice.
    """

    step: int
    copy: int = 0

    def __str__(self) -> str:
        return f"{STEP_PREFIX}{self.step:06d}" + (f".{self.copy}" if self.copy else "")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a folder's name; ``None`` if it is not one of ours."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        name = cls(int(match[1]), int(match[2] or 0))
        return name if str(name) == text else None

    def hidden_for_saving(self) -> str:
        """Make a fresh name to write under."""
        return f"{_SAVING}{self}-{uuid.uuid4().hex[:8]}"

    def hidden_for_deleting(self) -> str:
        """Make a fresh name to be removed under."""
        return f"{_DELETING}{self}-{uuid.uuid4().hex[:8]}"


def committed(folder: Path) -> list[Name]:
    """List the checkpoints of ``folder``, oldest first; their content is not looked at.

    A link counts as what it leads to; one that leads nowhere is a checkpoint that lacks all.
    """
    if not folder.is_dir():
        return []
    paths = (path for path in folder.iterdir() if path.is_dir() or path.is_symlink())
    names = (Name.parse(path.name) for path in paths)
    return sorted(name for name in names if name is not None)


def free_name(folder: Path, step: int) -> Name:
    """Choose the name of the next save of ``step``."""
    copies = [name.copy for name in committed(folder) if name.step == step]
    return Name(step, max(copies) + 1 if copies else 0)


def remove_leftovers(folder: Path) -> int:
    """Remove what a crash left unfinished. Only the one writer of ``folder`` may call this.

    Returns:
        How many there were.
    """
    leftovers = [path for prefix in (_SAVING, _DELETING) for path in folder.glob(f"{prefix}*")]
    for path in leftovers:
        durable.remove(path)
    return len(leftovers)
