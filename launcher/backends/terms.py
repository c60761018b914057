"""Who is the first node of a job: in term 0 member 0, in each later one whoever claimed it.

A claim is a file that can be created once. Its number fences: every first node writes to files of
its own term (``NodeFiles.in_term``), everybody reads those of the newest, and one that finds a
newer term than its own, because it was only suspended, knows that it was replaced.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from distrain.errors import ExitCode, PreflightError
from distrain.runs.durable import create_text
from distrain.runs.folder import NodeFiles
from distrain.runs.records import read_json


@dataclass(frozen=True)
class Term:
    """One first node's time."""

    number: int = 0
    member: int = 0
    """Which node."""
    roster: Sequence[int] = ()
    """Of the last start before it; empty: there was none."""
    gone: Collection[int] = ()
    """Members that were given up before it, with the last first node."""
    after: int = 0
    """Who was the first node before it."""

    def claim(self, meeting: NodeFiles) -> bool:
        """Become the first node; ``False`` if another one was faster."""
        return create_text(meeting.claim(self.number), json.dumps(asdict(self)))

    @classmethod
    def newest(cls, meeting: NodeFiles, known: "Term | None" = None) -> "Term":
        """Return the newest one.

        Args:
            meeting: Of a start of the job.
            known: One from which on to look.
        """
        term = known or cls()
        while (told := read_json(meeting.claim(term.number + 1))) is not None:
            term = cls(**told)
        return term


class ReplacedError(PreflightError):
    """This node was given up while it was silent, and another one does its work."""

    exit_code = ExitCode.STOPPED

    def __init__(self, member: int) -> None:
        super().__init__(
            f"node {member}",
            "that it gave no sign of life for too long, and that another node has its place",
            "signs of life every few seconds",
            "Nothing is to be done: this node ends, the run goes on without it.",
        )
