"""What a row of a data file has to be like, and what other tools' rows look like."""

from collections.abc import Collection

PAIR_FIELDS = ("prompt", "answer")
"""Fields of a row of ``data.path`` of an sft stage, both text."""

OTHER_FORMS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("messages",), "a chat; write each question and its reply as prompt and answer"),
    (("conversations",), "a ShareGPT chat; write each question and its reply as prompt and answer"),
    (("chosen", "rejected"), "a preference; keep the chosen answer as answer"),
    (("instruction", "output"), "Alpaca's; rename instruction to prompt and output to answer"),
    (("question", "answer"), "a question; rename question to prompt"),
    (("prompt", "completion"), "a completion; rename completion to answer"),
    (("prompt", "response"), "a response; rename response to answer"),
    (("input", "output"), "rename input to prompt and output to answer"),
    (("text",), "running text, which is for a prepare stage"),
)
"""Fields of a row -> what it is, and how to make a pair of it; the first that fits counts."""


def pair_problem(record: object) -> str | None:
    """Say why a row is no pair of prompt and answer; ``None`` if it is one."""
    if not isinstance(record, dict):
        return f"{type(record).__name__} where an object is expected"
    for name in PAIR_FIELDS:
        if name not in record:
            return f"no field '{name}' (it has {', '.join(record) or 'none'}{_other_form(record)})"
        if not isinstance(record[name], str) or not record[name].strip():
            return f"'{name}' is empty or no text"
    return None


def _other_form(fields: Collection[str]) -> str:
    for names, what in OTHER_FORMS:
        if all(name in fields for name in names):
            return f": {what}"
    return ""
