"""An example that a shape of chats gives, as pieces of what the template makes of the shape."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distrain.data.chats.rendering import Rendering, Shape, Slot, UnfitError

Stretch = tuple[int, int]
"""First character, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A rendering to compare a chat with: its first ``count`` messages, ``asks`` for another."""

    count: int
    asks: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the text of an example.

    Args:
        source: Number of the rendering it is taken from.
        number: Of the piece in that rendering; see ``Rendering.pieces``.
        start: First character of it.
        stop: The one after the last; ``None``: all that follows.
        is_content: It is a slot: names of control tokens are plain text in it.
        is_trained: It is what the assistant says.
        may_go: A text that is too long may lose it.
    """

    source: int
    number: int
    start: int
    stop: int | None
    is_content: bool
    is_trained: bool
    may_go: bool


@dataclass(frozen=True, slots=True)
class ChatPart:
    """An example that a shape gives.

    Args:
        sources: Renderings that its text is made of.
        layouts: Their pieces.
        pieces: Of the text, in order.
        stripped: Thoughts of earlier turns that the template leaves out.
        is_odd: It begins an answer otherwise than its generation prompt does.
    """

    sources: tuple[Compared, ...]
    layouts: tuple[tuple[str | int, ...], ...]
    pieces: tuple[Piece, ...]
    stripped: int
    is_odd: bool


def make_part(
    shape: Shape,
    sources: Sequence[tuple[Compared, Rendering, Stretch]],
    spans: Sequence[Stretch],
    thinking: set[int],
    *,
    is_odd: bool = False,
) -> ChatPart:
    """Make an example of stretches of renderings, one after the other.

    Args:
        shape: Whose slots they hold.
        sources: Each with its rendering and the stretch of it.
        spans: What is trained, in characters of the whole.
        thinking: Numbers of the turns whose thoughts must be there.
        is_odd: As ``ChatPart`` has it.

    Raises:
        UnfitError: A string of the chat is not in it.
    """
    shown: set[int] = set()
    pieces = []
    done = 0
    for source, (_, rendering, (start, stop)) in enumerate(sources):
        for number, (piece, low, high) in enumerate(_located(rendering)):
            first, last = max(low, start), min(high, stop)
            if first >= last:
                continue
            if isinstance(piece, int):
                shown.add(piece)
            # Where the text of the example and that of the rendering lie apart.
            moved = done - start
            for one, other in _cuts(spans, first + moved, last + moved):
                pieces.append(
                    Piece(
                        source,
                        number,
                        one - moved - low,
                        None if isinstance(piece, int) else other - moved - low,
                        isinstance(piece, int),
                        any(begin <= one < end for begin, end in spans),
                        isinstance(piece, int) and _may_go(shape, shape.slots[piece]),
                    )
                )
        done += stop - start
    count = max(source.count for source, _, _ in sources)
    return ChatPart(
        tuple(source for source, _, _ in sources),
        tuple(tuple(rendering.pieces()) for _, rendering, _ in sources),
        tuple(pieces),
        _check_shown(shape, shown, count, thinking),
        is_odd,
    )


def _located(rendering: Rendering) -> Iterator[tuple[str | int, int, int]]:
    """Yield each piece of a rendering with where it stands."""
    pieces = rendering.pieces()
    places = iter(rendering.places)
    done = 0
    for piece in pieces:
        end = next(places).end if isinstance(piece, int) else done + len(piece)
        yield piece, done, end
        done = end


def _cuts(spans: Sequence[Stretch], low: int, high: int) -> Iterator[Stretch]:
    """Cut a stretch where what is trained begins or ends."""
    bounds = sorted({low, high, *(bound for span in spans for bound in span if low < bound < high)})
    yield from itertools.pairwise(bounds)


def _may_go(shape: Shape, slot: Slot) -> bool:
    if slot.kind not in ("content", "reasoning"):
        return False
    return bool(shape.messages[slot.turn]["role"] != "system")


def _check_shown(shape: Shape, shown: set[int], count: int, thinking: set[int]) -> int:
    """Count the turns whose thoughts are left out.

    Raises:
        UnfitError: Something else is left out, or a thought that is to be trained.
    """
    stripped = set()
    for number, slot in enumerate(shape.slots):
        if number in shown or slot.turn >= count or slot.kind == "other":
            continue
        if slot.kind != "reasoning" or slot.turn in thinking:
            raise UnfitError("dropped", f"{slot.path} is not in what the chat template makes")
        stripped.add(slot.turn)
    return len(stripped)
