"""Which parts of a chat are what the assistant says, and which examples a chat gives.

A turn of the assistant begins where the template's generation prompt ends and goes to the token
that stops it. What stands before it must be what it stands after when the model is asked: a
template may lay out earlier turns otherwise once later ones are there (it drops their reasoning,
or moves it). Such a turn gets an example of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distrain.data.chats.parts import ChatPart, Compared, Stretch, make_part
from distrain.data.chats.rendering import Rendering, Shape, UnfitError, common_length
from distrain.errors import DataError

Render = Callable[[Shape, int, bool], Rendering]
"""Lays out the first so many messages of a shape; whether an answer is to follow."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the assistant, as the last of its chat.

    Args:
        number: Of its message.
        whole: The chat up to it.
        spans: Of ``whole``: what is trained; the last ends with the stop token.
        context: What the model is asked with, where that is not how ``whole`` begins.
        begins: Where the turn begins in ``whole`` if there is a ``context``.
        is_odd: As ``ChatPart`` has it.
    """

    number: int
    whole: Rendering
    spans: list[Stretch]
    context: Rendering | None
    begins: int
    is_odd: bool

    @property
    def text(self) -> str:
        """The example up to the stop token, with names of slots."""
        end = self.spans[-1][1]
        if self.context is None:
            return self.whole.text[:end]
        return self.context.text + self.whole.text[self.begins : end]

    def spans_in_text(self) -> list[Stretch]:
        """Return what is trained of ``text``."""
        moved = 0 if self.context is None else len(self.context.text) - self.begins
        return [(start + moved, end + moved) for start, end in self.spans]


class TurnFinder:
    """Finds the assistant's turns in what a template makes of a shape.

    Args:
        render: Of the template.
        find_stop: Returns where the first token ends that stops a turn, if a text holds one.
        has_marks: The template says itself what the assistant writes.
        header: What it puts between a question and a plain answer, without being asked.
    """

    def __init__(
        self,
        render: Render,
        find_stop: Callable[[str], int | None],
        *,
        has_marks: bool,
        header: str,
    ) -> None:
        self._render = render
        self._find_stop = find_stop
        self._has_marks = has_marks
        self._header = header

    def parts(self, shape: Shape, turns: Sequence[int]) -> list[ChatPart]:
        """Return the fewest examples in which each of the turns stands as it is asked for.

        Raises:
            UnfitError: A turn has no such place, or the template leaves out a string of it.
        """
        left = [self.turn(shape, number) for number in turns]
        parts = []
        while left:
            base = left[-1]
            covered = [turn for turn in left if base.text.startswith(turn.text)]
            left = [turn for turn in left if turn not in covered]
            spans = [span for turn in covered for span in turn.spans_in_text()]
            parts.append(self._part(shape, base, sorted(spans), {turn.number for turn in covered}))
        return parts[::-1]

    def turn(self, shape: Shape, number: int) -> Turn:
        """Find a turn of the assistant in the chat that ends with it."""
        whole = self._render(shape, number + 1, False)
        own = [place for place in whole.places if shape.slots[place.slot].turn == number]
        if not own:
            raise _says_nothing(shape, number)
        end = self._find_stop(whole.text[own[-1].end :])
        if end is None:
            raise UnfitError(
                "no stop token",
                f"messages[{number}] ends with {whole.text[own[-1].end :]!r}: no token stops it",
            )
        end += own[-1].end
        start, context, begins, is_odd = self._beginning(shape, number, whole, own[0].start)
        spans = [(start, end)]
        if self._has_marks:
            spans = _marked(whole, own[0].start, (start, end), number)
        return Turn(number, whole, spans, context, begins, is_odd)

    def _beginning(
        self, shape: Shape, number: int, whole: Rendering, first: int
    ) -> tuple[int, Rendering | None, int, bool]:
        """Return where a turn starts, another context and where it begins, whether it is odd."""
        asked, before = self._try(shape, number, True), self._try(shape, number, False)
        if asked is None or before is None or asked.text == before.text:
            return (*self._without_prompt(number, whole, before, first), False)
        common = common_length(asked.text, whole.text)
        if common == len(asked.text):
            return common, None, 0, False
        shared = common_length(asked.text, before.text)
        if common >= shared:
            # The context is the same; the prompt goes on otherwise, such as with a thought.
            return common, None, 0, True
        prompt = asked.text[shared:]
        after = max((place.end for place in whole.places if place.start < first), default=0)
        found = whole.text.find(prompt, after, first)
        if not prompt or found < 0:
            raise UnfitError(
                "depends on what follows",
                f"messages[{number}] stands after another text when the model is asked for it",
            )
        begins = found + len(prompt)
        return begins, asked, begins, False

    def _without_prompt(
        self, number: int, whole: Rendering, before: Rendering | None, first: int
    ) -> tuple[int, Rendering | None, int]:
        """Find the start of a turn for which the template writes no generation prompt."""
        if before is None:
            found = whole.text.rfind(self._header, 0, first) if self._header else -1
            return (first if found < 0 else found + len(self._header)), None, 0
        if not whole.text.startswith(before.text):
            raise UnfitError(
                "depends on what follows",
                f"messages[{number}] changes how the messages before it are laid out",
            )
        start = len(before.text)
        return start + common_length(self._header, whole.text[start:first]), None, 0

    def _try(self, shape: Shape, count: int, asks: bool) -> Rendering | None:
        """Lay out a beginning of a chat, which some templates refuse."""
        if count == 0:
            return None
        try:
            return self._render(shape, count, asks)
        except DataError:
            return None

    def _part(self, shape: Shape, base: Turn, spans: list[Stretch], trained: set[int]) -> ChatPart:
        end = base.spans[-1][1]
        sources = [(Compared(base.number + 1, False), base.whole, (base.begins, end))]
        if base.context is not None:
            asked = (Compared(base.number, True), base.context, (0, len(base.context.text)))
            sources = [asked, *sources]
        return make_part(shape, sources, spans, trained, is_odd=base.is_odd)


def _says_nothing(shape: Shape, number: int) -> UnfitError:
    slots = [slot for slot in shape.slots if slot.turn == number]
    if not slots:
        return UnfitError("empty", f"messages[{number}] of the assistant says nothing")
    return UnfitError("dropped", f"{slots[0].path} is not in what the chat template makes")


def _marked(whole: Rendering, first: int, said: Stretch, number: int) -> list[Stretch]:
    """Return what a template marks of its last turn, up to the token that stops it.

    Args:
        whole: Of the chat that ends with the turn.
        first: Where its first string stands.
        said: Where it begins and ends without the marks.
        number: Of its message.

    Raises:
        UnfitError: The marks leave out the turn, or what stops it.
    """
    _, end = said
    after = max((place.end for place in whole.places if place.end <= first), default=0)
    spans = [(low, min(high, end)) for low, high in whole.spans if after <= low < end]
    if not spans or spans[-1][1] < end:
        raise UnfitError(
            "marks",
            f"messages[{number}]: the template's generation marks end before its stop token",
        )
    return spans
