"""What has to be known of a chat template, found out by asking it about small chats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distrain.data.chats.rendering import Rendering, Shape, Shaper, common_length
from distrain.data.tokenizer.chat_template import ChatTemplate
from distrain.data.tokenizer.control_text import ControlText
from distrain.errors import DataError

PLAIN = ("user", "assistant", "user", "assistant")


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a template does with plain chats.

    Args:
        blocks: It shows contents only as ``[{"type": "text", "text": ...}]``.
        header: What it puts between a question and its answer.
        end_ids: Ids of the control token that ends an answer; empty if none does.
    """

    blocks: bool
    header: str
    end_ids: frozenset[int]


def find_facts(template: ChatTemplate, text: ControlText, where: str) -> TemplateFacts:
    """Ask a template about a question and its answer, and about two of them.

    Raises:
        DataError: It hides the question or the answer, or fails.
    """
    blocks = False
    try:
        pair = _plain(template, 2, blocks=False)
        blocks = pair is None
    except DataError:
        # Those that take blocks only index into a text, or add a list to one.
        pair = None
    if pair is None:
        pair = _plain(template, 2, blocks=True)
        blocks = True
    if pair is None:
        raise unfit_template(where, "one that does not show each message once, in order")
    question = pair.places[0]
    answer = pair.places[1]
    end = pair.text[answer.end :]
    names = [name for name, _ in text.control_names(_ending(template, end, blocks=blocks))]
    last = names[-1:]
    if not last:
        last = [name for name, _ in text.control_names(end)][:1]
    header = pair.text[question.end : answer.start]
    asked = _plain(template, 1, blocks=blocks)
    if asked is not None and pair.text.startswith(asked.text):
        header = pair.text[len(asked.text) : answer.start]
    # A space before an answer is the answer's: most tokenizers make one token of it and a word.
    return TemplateFacts(blocks, header.rstrip(" "), frozenset(text.id_of(name) for name in last))


def unfit_template(where: str, found: str) -> DataError:
    """Say that a template serves no chat at all."""
    return DataError(
        where,
        f"a chat template: {found}",
        "one that shows a prompt and then its answer, as they are, ended by a control token",
        "Give the folder another chat template, or none: distrain then writes its own.",
    )


def render_shape(
    template: ChatTemplate, shape: Shape, count: int, *, asks: bool = False
) -> Rendering:
    """Lay out the first messages of a shape."""
    marked = template.render(
        shape.messages[:count], asks=asks, tools=shape.tools, marks=template.has_marks
    )
    return Rendering.of(marked)


def _ending(template: ChatTemplate, end: str, *, blocks: bool) -> str:
    """Return how an answer ends whether or not anything follows it.

    Some templates end the whole text, too (Phi-3's with an end of text); some end the last turn
    otherwise than others (gpt-oss).
    """
    try:
        chat = _plain(template, 4, blocks=blocks)
    except DataError:
        chat = None
    if chat is None:
        return ""
    between = chat.text[chat.places[1].end : chat.places[2].start]
    return end[: common_length(between, end)]


def _plain(template: ChatTemplate, count: int, *, blocks: bool) -> Rendering | None:
    """Lay out plain turns; ``None`` unless each is there once and in order."""
    messages: Sequence[Mapping[str, Any]] = [
        {"role": role, "content": f"x{number}"} for number, role in enumerate(PLAIN[:count])
    ]
    shaper = Shaper(frozenset(), blocks=blocks)
    shape = shaper.shape(shaper.messages(messages), [])
    found = render_shape(template, shape, count)
    is_whole = [place.slot for place in found.places] == list(range(count))
    return found if is_whole else None
