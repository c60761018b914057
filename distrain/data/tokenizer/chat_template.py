"""Chat templates as transformers renders them: Jinja in a sandbox (``apply_chat_template``)."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distrain.config.huggingface import TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from distrain.errors import DataError
from distrain.runs.records import read_json

NAMING_FILES = ("special_tokens_map.json", TOKENIZER_CONFIG_FILE)
PLAIN_CHAT, TOOL_CHAT = "default", "tool_use"
"""Of several templates by name, the one for plain chats, and the one where tools are given."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of what an assistant thinks before it answers; the first is the standard one."""
OWN_ARGUMENTS = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""What every template is given, and a recipe's arguments may not replace."""
SPAN_START, SPAN_END = "\U000f0f00", "\U000f0f01"
"""Private characters around what ``{% generation %}`` marks, where a rendering shows it."""

Message = Mapping[str, Any]


class ChatTemplate:
    """A template with the names of the tokens that it may write.

    Args:
        source: Jinja.
        names: ``bos_token`` and its kin -> name in the vocabulary.
        where: It comes from, for messages.
        arguments: What else it is given, such as ``enable_thinking``.
        today: What it is told when it asks for the date, as transformers lets it. Without it,
            there is no clock: equal messages give equal text on any day.
    """

    def __init__(
        self,
        source: str,
        names: Mapping[str, str],
        where: str,
        *,
        arguments: Mapping[str, Any] | None = None,
        today: date | None = None,
    ) -> None:
        self.source = source
        self._arguments = tuple(arguments or ())
        self._given = {**names, **(arguments or {})}
        self._where = where
        self._environment = _environment(today)
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateError as error:
            raise self._failed(error) from error

    @property
    def unread(self) -> tuple[str, ...]:
        """Names of arguments that the template never looks at: a word misspelled, as a rule."""
        read = find_undeclared_variables(self._environment.parse(self.source))
        return tuple(name for name in self._arguments if name not in read)

    @property
    def has_marks(self) -> bool:
        """Whether it says itself what the assistant writes."""
        return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", self.source) is not None

    @cached_property
    def tested(self) -> frozenset[str]:
        """Strings that it may look for in contents, such as ``</think>``.

        It compares with them, or hands them to a method; names of roles, keys and kinds are left
        out, and what it replaces: a content that it changes is none that it shows.
        """
        tree = self._environment.parse(self.source)
        found: set[str] = set()
        for node in tree.find_all((nodes.Compare, nodes.Call)):
            found |= {item.value for item in _operands(node) if isinstance(item, nodes.Const)}
        return frozenset(
            text
            for text in found
            if isinstance(text, str) and text.strip() and not re.fullmatch(r"[\w ]+", text)
        )

    def render(
        self,
        messages: Sequence[Message],
        *,
        asks: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        marks: bool = False,
    ) -> str:
        """Lay out a chat as text.

        Args:
            messages: With ``role`` and ``content``.
            asks: End where the assistant's answer is to follow.
            tools: What it is told of tools.
            marks: Put ``SPAN_START`` and ``SPAN_END`` around what ``{% generation %}`` marks.

        Raises:
            DataError: The template refuses the messages, or fails.
        """
        try:
            return self._template.render(
                **self._given,
                messages=[_completed(message) for message in messages],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=asks,
                **{SHOWS_SPANS: marks},
            )
        # A template may do anything with what it is given: sums of text and numbers, endless loops.
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> DataError:
        return DataError(
            self._where,
            f"a chat template that fails ({error})",
            "one that lays out a user's message and an assistant's answer",
            "Correct or remove the template; without one, distrain writes its own.",
        )


SHOWS_SPANS = "distrain_shows_spans"


class GenerationTag(Extension):
    """``{% generation %}``: what the assistant writes; its text is as is, marked on request."""

    tags = {"generation"}  # noqa: RUF012  (as the base class has it)

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        """Read up to ``endgeneration``, as a block of its own scope, as transformers does."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_written", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _written(self, context: jinja2.runtime.Context, caller: Callable[[], str]) -> str:
        text = caller()
        return f"{SPAN_START}{text}{SPAN_END}" if context.get(SHOWS_SPANS) else text


def read_template(
    folder: Path,
    *,
    tools: bool = False,
    arguments: Mapping[str, Any] | None = None,
    today: date | None = None,
) -> ChatTemplate | None:
    """Read the chat template of a model's folder, where transformers would find it.

    Args:
        folder: Of the model.
        tools: Take the one for chats with tools, where there are several.
        arguments: As ``ChatTemplate`` has it.
        today: As ``ChatTemplate`` has it.
    """
    names: dict[str, str] = {}
    config: dict[str, Any] = {}
    for file in NAMING_FILES:
        config = read_json(folder / file) or {}
        names |= {key: found for key, value in config.items() if (found := _name(key, value))}
    path = folder / TEMPLATE_FILE
    source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):
        named = {item.get("name"): item.get("template") for item in source}
        source = (named.get(TOOL_CHAT) if tools else None) or named.get(PLAIN_CHAT)
    if not isinstance(source, str):
        return None
    return ChatTemplate(source, names, str(folder), arguments=arguments, today=today)


def _environment(today: date | None) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    if today is not None:
        environment.globals["strftime_now"] = today.strftime
    return environment


def _completed(message: Message) -> dict[str, Any]:
    """Return a message as transformers gives it: without ``None``, its reasoning by each name."""
    given = {key: value for key, value in message.items() if value is not None}
    thought = next((given[key] for key in REASONING if key in given), None)
    return given if thought is None else {"thinking": thought, **given, REASONING[0]: thought}


def _operands(node: nodes.Node) -> list[nodes.Node]:
    if isinstance(node, nodes.Compare):
        return [node.expr, *(operand.expr for operand in node.ops)]
    assert isinstance(node, nodes.Call)
    # What a function is given is mostly a message to people.
    is_method = isinstance(node.node, nodes.Getattr) and node.node.attr != "replace"
    return list(node.args) if is_method else []


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
