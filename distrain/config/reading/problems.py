"""Mistakes of a recipe: where each was written, and the text that shows them all at once."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distrain.errors import RecipeError

MAX_SHOWN_WIDTH = 100
"""Characters of a source line that are printed above the caret."""


def printable(text: str) -> str:
    """Write control characters as escapes, so that a message stays one line."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: repr(match[0])[1:-1], text)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written.

    Args:
        file: Path as the user gave it, or ``override 'x=y'``, which has no line.
        line: Counted from 1; 0 where there is no line.
        column: Counted from 1.
        text: The source line.
        width: Characters to underline.
    """

    file: str
    line: int = 0
    column: int = 0
    text: str = ""
    width: int = 1

    @property
    def is_override(self) -> bool:
        """Whether this was typed on the command line."""
        return self.line == 0 and self.file.startswith("override ")

    @property
    def origin(self) -> str:
        """The place in short: ``file:line`` or ``override``."""
        return "override" if self.is_override else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: what is wrong at a place, and what to do about it."""

    place: Place
    message: str

    def __str__(self) -> str:
        first = f"error: {self.place}: {self.message}"
        return f"{first}\n{_underlined(self.place)}" if self.place.text.strip() else first


def _underlined(place: Place) -> str:
    line = place.text.replace("\t", " ")
    indent = len(line) - len(line.lstrip())
    start = max(place.column - 1, indent)
    # A long line is cut so that what is underlined stays in view.
    left = indent if start - indent < MAX_SHOWN_WIDTH else start - MAX_SHOWN_WIDTH // 2
    shown = line[left : left + MAX_SHOWN_WIDTH].rstrip()
    width = max(1, min(place.width, len(shown) - (start - left)))
    return f"    {shown}\n    {' ' * (start - left)}{'^' * width}"


class RecipeErrors(RecipeError):  # noqa: N818  (it is several)
    """All mistakes of one recipe or site file.

    Args:
        problems: At least one, in the order in which they are shown.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(
            str(first.place), first.message, "a valid file", "Correct it and run the command again."
        )
        self.args = (self.problems,)  # what pickle hands to __init__

    def __str__(self) -> str:
        count = len(self.problems)
        last = f"{count} error{'s' if count > 1 else ''}. Nothing was started."
        return "\n".join([*(str(problem) for problem in self.problems), last])


class ProblemList:
    """Collects mistakes while a recipe is read."""

    def __init__(self) -> None:
        self._problems: dict[Problem, None] = {}
        self._places: set[Place] = set()
        self._files: dict[str, int] = {}
        self.is_incomplete = False
        """A part of the recipe could not be read, so nothing can be said to be missing."""

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)

    def __len__(self) -> int:
        return len(self._problems)

    def add(self, place: Place, message: str, *, beside_others: bool = False) -> None:
        """Note a mistake.

        A value that reaches several stages is judged in each of them, so only the first message
        at a place counts, unless it says that it is about something else (``beside_others``).
        """
        problem = Problem(place, printable(message))
        if problem not in self._problems and (beside_others or place not in self._places):
            self._problems[problem] = None
        if not beside_others:
            self._places.add(place)

    def add_file(self, file: str) -> None:
        """Note that a file is read now: mistakes are shown in the order of the files."""
        self._files.setdefault(file, len(self._files))

    def raise_if_any(self) -> None:
        """End the reading when there was a mistake.

        Raises:
            RecipeErrors: All of them, by file, line and column, overrides last.
        """
        if not self._problems:
            return
        last = len(self._files)
        raise RecipeErrors(
            sorted(
                self._problems,
                key=lambda problem: (
                    self._files.get(problem.place.file, last),
                    problem.place.line,
                    problem.place.column,
                ),
            )
        )
