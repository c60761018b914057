"""A row that was read -> an example, whatever shape it has."""

import json

from distrain.config.row_contents import RowContent
from distrain.config.rows import RowsOfSource
from distrain.config.turns import RowError
from distrain.data.chats.example import Example
from distrain.data.curate.normalize import normalize
from distrain.data.sources.document import SourceRow
from distrain.data.sources.documents import is_encodable


def example_of(row: SourceRow, path: str, source: RowsOfSource) -> Example:
    """Return the example of a row, under the name ``path``.

    Raises:
        RowError: It is of another shape than its source, or makes no example.
    """
    content = source.read(_decoded(row.fields), has_filler=row.has_filler)
    if source.shape is not None and source.shape.is_normalized:
        content = _normalized(content)
    _check_texts(content)
    return Example(
        path,
        content.messages,
        content.prompt,
        content.completion,
        content.tools,
        content.rejected,
    )


def _decoded(fields: object) -> object:
    """Return the fields with every text as such: those of plain files come as bytes."""
    if not isinstance(fields, dict) or not any(isinstance(item, bytes) for item in fields.values()):
        return fields
    texts = dict(fields)
    for name, value in fields.items():
        if isinstance(value, bytes):
            try:
                texts[name] = value.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise RowError(f"'{name}' is not UTF-8") from error
    return texts


def _normalized(content: RowContent) -> RowContent:
    messages = []
    for number, message in enumerate(content.messages, start=1):
        text = normalize(message["content"])
        # Of nothing but control characters, nothing is left.
        if message["content"].strip() and not text.strip():
            raise RowError(f"turn {number} is empty or no text")
        messages.append({**message, "content": text})
    return RowContent(tuple(messages), tools=content.tools)


def _check_texts(content: RowContent) -> None:
    """Refuse what no tokenizer takes or no one wrote."""
    texts = [content.prompt, content.completion or ""]
    for message in (*content.messages, *content.rejected):
        texts += [value for value in message.values() if isinstance(value, str)]
        if "tool_calls" in message:
            texts.append(json.dumps(message["tool_calls"], ensure_ascii=False, default=str))
    for text in texts:
        if "\0" in text:
            raise RowError("a text with NUL bytes")
        if not is_encodable(text):
            raise RowError("a text that is not UTF-8 (half of a surrogate pair)")
