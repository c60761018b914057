"""Chat templates as transformers renders them: Jinja in a sandbox (``apply_chat_template``)."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distrain.errors import DataError
from distrain.runs.records import read_json

TEMPLATE_FILE = "chat_template.jinja"
NAMING_FILES = ("special_tokens_map.json", "tokenizer_config.json")
PLAIN_CHAT = "default"
"""Of several templates by name, the one for plain chats."""

Message = Mapping[str, str]


class ChatTemplate:
    """A template with the names of the tokens that it may write.

    Args:
        source: Jinja.
        names: ``bos_token`` and its kin -> name in the vocabulary.
        where: It comes from, for messages.
        has_clock: Let it ask for the date, as transformers does. Without it, equal messages give
            equal text on any day.
    """

    def __init__(
        self, source: str, names: Mapping[str, str], where: str, *, has_clock: bool = False
    ) -> None:
        self._names = dict(names)
        self._where = where
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        if has_clock:
            environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise self._failed(error) from error

    def render(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        """Lay out a chat as text.

        Args:
            messages: With ``role`` and ``content``.
            asks: End where the assistant's answer is to follow.

        Raises:
            DataError: The template refuses the messages, or fails.
        """
        try:
            return self._template.render(
                **self._names,
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=asks,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> DataError:
        return DataError(
            self._where,
            f"a chat template that fails ({error})",
            "one that lays out a user's message and an assistant's answer",
            "Correct or remove the template; without one, distrain writes its own.",
        )


class GenerationTag(Extension):
    """``{% generation %}``: what the assistant writes; transformers marks it, the text is as is."""

    tags = {"generation"}  # noqa: RUF012  (as the base class has it)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Read up to ``endgeneration``."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def read_template(folder: Path, *, has_clock: bool = False) -> ChatTemplate | None:
    """Read the chat template of a model's folder, where transformers would find it."""
    names: dict[str, str] = {}
    config: dict[str, Any] = {}
    for file in NAMING_FILES:
        config = read_json(folder / file) or {}
        names |= {key: found for key, value in config.items() if (found := _name(key, value))}
    path = folder / TEMPLATE_FILE
    source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):
        source = {item.get("name"): item.get("template") for item in source}.get(PLAIN_CHAT)
    if not isinstance(source, str):
        return None
    return ChatTemplate(source, names, str(folder), has_clock=has_clock)


def _name(key: str, value: object) -> str | None:
    if not key.endswith("_token"):
        return None
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: object, **options: Any) -> str:  # noqa: ANN401  (those of json.dumps)
    # Jinja's own filter escapes what is special in HTML.
    return json.dumps(value, **{"ensure_ascii": False, **options})
