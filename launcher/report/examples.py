"""Examples of fine-tuning on the page: a few as they are trained, and those left out. Pure.

They are strangers' text: what is shown of them is short and obeys no command.
"""

from dataclasses import dataclass

from launcher.report.data import Fields, StageRecords, fields, number
from launcher.report.parts import Table
from launcher.report.rejections import PATH_CHARACTERS
from launcher.report.text import count, integer, share, significant, visible

SHOWN = 3
SHOWN_CHARACTERS = 2000
"""Of one example; of a longer one the end, where the answer is."""


@dataclass(frozen=True)
class ShownPiece:
    """A stretch of text, or a control token by its name."""

    text: str
    is_trained: bool
    is_control: bool


@dataclass(frozen=True)
class ShownExample:
    """One example.

    Args:
        path: Where it was read.
        size: Its tokens, and how many of them are trained on.
        pieces: In order.
    """

    path: str
    size: str
    pieces: tuple[ShownPiece, ...]


def shown_examples(stage: StageRecords) -> list[ShownExample]:
    """Lay out the examples that a stage wrote down before its first step."""
    return [_example(record) for record in stage.examples[:SHOWN]]


def row_tables(stage: StageRecords) -> list[Table]:
    """Say how full rows are, and how much of them is trained on."""
    found = fields(stage.data.get("rows"))
    rows = []
    for split, figures in found.items():
        value = {key: number(each) for key, each in fields(figures).items()}
        rows.append(
            (
                split,
                integer(value.get("examples")),
                integer(value.get("samples")),
                share(value.get("padding") or 0.0, 1),
                share(value.get("trained") or 0.0, 1),
                significant(value.get("targets_per_sample")),
                integer(value.get("stop_tokens")),
            )
        )
    header = (
        "rows", "examples", "rows", "padding", "trained", "targets a row", "stop tokens",
    )  # fmt: skip
    leak = fields(stage.data.get("leak_probe"))
    note = ""
    if number(leak.get("examples")):
        note = (
            f"{integer(number(leak.get('examples')))} examples of one row do not see each other: "
            f"largest change {significant(number(leak.get('largest_change')))} nats."
        )
    return [Table("Examples in rows", header, tuple(rows), note)] if rows else []


def _example(record: Fields) -> ShownExample:
    found = record.get("pieces")
    pieces, room = [], SHOWN_CHARACTERS
    for piece in reversed(found if isinstance(found, list) else []):
        if room <= 0:
            break
        if not isinstance(piece, dict):
            continue
        is_control = "control" in piece
        text = str(piece.get("control" if is_control else "text", ""))
        if len(text) > room:
            text = "…" + text[-room:]
        room -= len(text)
        shown = visible(text, SHOWN_CHARACTERS)
        pieces.append(ShownPiece(shown, piece.get("trained") is True, is_control))
    tokens, trained = number(record.get("tokens")), number(record.get("trained"))
    size = f"{count(int(tokens or 0), 'token')}, {integer(trained)} trained on"
    path = f"{record.get('source', '')}: {record.get('path', '')}"
    return ShownExample(visible(path, PATH_CHARACTERS), size, tuple(reversed(pieces)))
