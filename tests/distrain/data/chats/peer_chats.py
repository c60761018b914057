"""What transformers makes of a chat by a template, and what it marks by the twin for training."""

import tokenizers
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from tests.distrain.data.chats.peer_templates import (
    CHATS,
    TOOL,
    as_blocks,
    takes_blocks,
    template_folder,
    twin_of,
)


class PeerChat:
    """A chat as the peers see it.

    Args:
        folder: Of ``peer_templates.chat_folder``.
        name: Of the template.
        chat: Key of ``CHATS``.
        stop_names: Tokens that end a turn.
    """

    def __init__(self, folder, name, chat, stop_names):
        self._raw = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._theirs = AutoTokenizer.from_pretrained(folder)
        self._tools = [TOOL] if chat == "tools" else None
        self._messages = CHATS[chat]
        if takes_blocks(name):
            self._messages = as_blocks(self._messages)
        self.turns = [n for n, found in enumerate(self._messages) if found["role"] == "assistant"]
        self._twin = (twin_of(name) or template_folder() / f"{name}.jinja").read_text()
        self.has_marks = "endgeneration" in self._twin
        self._is_own = twin_of(name) is None
        self._stop_names = stop_names

    def ids(self, count, *, asks=False):
        """Ids of the first messages by the template itself."""
        given = {"tools": self._tools, "add_generation_prompt": asks}
        return self._theirs.apply_chat_template(self._messages[:count], **given)["input_ids"]

    def said(self, turn):
        """Ids of a turn, the last of its chat, within the twin's marks.

        Of the marks: from the end of the generation prompt, with which those of some twins begin
        (what a template marks itself begins as it says), to the token that stops the turn, behind
        which some end.

        Returns:
            The ids, and whether the token that stops the turn is among them.
        """
        text, marks = self._twin_text(turn + 1)
        start, end = marks[-1]
        for low, high in reversed(marks[:-1]):
            if high == start:
                start = low
        if not self._is_own:
            prompt = self._prompt(turn)
            shared = [n for n in range(len(prompt) + 1) if text[:start].endswith(prompt[:n])]
            begin = start - max(shared)
            start = max(start, begin + common(prompt, text[begin:]))
        stops = [(text.find(name, start, end), name) for name in self._stop_names]
        place, name = min([stop for stop in stops if stop[0] >= 0], default=(end, ""))
        found = self._raw.encode(text, add_special_tokens=False)
        inside = [start < high <= place + len(name) for _, high in found.offsets]
        return [n for n, is_in in zip(found.ids, inside, strict=True) if is_in], bool(name)

    def _prompt(self, turn):
        asked, _ = self._twin_text(turn, asks=True)
        before, _ = self._twin_text(turn)
        return asked[common(asked, before) :]

    def _twin_text(self, count, *, asks=False):
        texts, marks = render_jinja_template(
            conversations=[self._messages[:count]],
            tools=self._tools,
            chat_template=self._twin,
            return_assistant_tokens_mask=True,
            add_generation_prompt=asks,
            **self._theirs.special_tokens_map,
        )
        return texts[0], marks[0]


def common(one, other):
    """How many characters both begin with."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
