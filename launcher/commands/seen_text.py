"""What ``distrain data seen`` prints: parts of documents, or examples, a line each."""

from collections.abc import Iterable, Iterator
from typing import Any

from launcher.commands.data_text import visible
from launcher.text import plural

Record = dict[str, Any]

INEXACT = (
    "bytes are estimates: the sizes of this tokenizer's ids do not add up to the texts; "
    "tokens are exact"
)


def step_lines(head: Record, parts: Iterable[Record]) -> Iterator[str]:
    """Say what a step read, then each part: where it is in the run, and in its document."""
    first, count = head["first_sample"], head["num_samples"]
    verb = "trained on" if head["made"] else "would train on"
    if head.get("left_out"):
        verb = "leaves out, for a spike,"
    yield (
        f"step {head['step']:,} of {head['stage']} {verb} samples {first:,} to "
        f"{first + count - 1:,}: {plural(head['targets'], 'token')} of "
        + (
            plural(head["examples"], "example")
            if "examples" in head
            else plural(head["documents"], "document")
        )
    )
    if not head["made"]:
        yield (
            f"{plural(head['steps_made'], 'step')} of {head['stage']} made so far; a resume with "
            "another mixture or batch size changes what comes"
        )
    if "examples" in head:
        yield _example_line("SAMPLE", "POSITIONS", "TRAINED ON", "EXAMPLE")
        for part in parts:
            yield _example_line(f"{part['sample']:,}", *_place(part), _example(part))
        return
    yield from _warning(head)
    yield _line("SAMPLE", "TOKENS", "BYTES", "DOCUMENT")
    for part in parts:
        yield _line(f"{part['sample']:,}", _tokens(part), _bytes(part), _document(part))


def document_lines(head: Record, parts: Iterable[Record]) -> Iterator[str]:
    """Say which documents were meant, then each part of them that was read, and by which step."""
    if "examples" in head:
        yield from _lines_of_examples(head, parts)
        return
    for document in head["documents"]:
        size = f"{plural(document['tokens'], 'token')}, {plural(document['bytes'], 'byte')}"
        yield f"{_document(document)}: {size}"
    yield from _warning(head)
    lines = 0
    for part in parts:
        if not lines:
            yield _line("STEP", "TOKENS", "BYTES", "SAMPLE, EPOCH, DOCUMENT")
        lines += 1
        place = f"{part['sample']:,}, epoch {part['epoch'] + 1}, "
        place += f"{part['source']}:#{part['document']}{_left_out(part)}"
        yield _line(f"{part['step']:,}", _tokens(part), _bytes(part), place)
    if not lines:
        yield _not_read(head)


def _lines_of_examples(head: Record, parts: Iterable[Record]) -> Iterator[str]:
    """Say which examples were meant, then where each of them was read, and by which step."""
    for example in head["examples"]:
        yield _example(example)
    lines = 0
    for part in parts:
        if not lines:
            yield _example_line("STEP", "POSITIONS", "TRAINED ON", "SAMPLE, EPOCH, EXAMPLE")
        lines += 1
        place = f"{part['sample']:,}, epoch {part['epoch'] + 1}, "
        place += f"{part['source']}:#{part['example']}{_left_out(part)}"
        yield _example_line(f"{part['step']:,}", *_place(part), place)
    if not lines:
        yield _not_read(head)


def _left_out(part: Record) -> str:
    return ", left out for a spike" if part.get("left_out") else ""


def _not_read(head: Record) -> str:
    return f"{head['stage']} has not read it, in {plural(head['steps_made'], 'step')}"


def _warning(head: Record) -> Iterator[str]:
    if not head["bytes_are_exact"]:
        yield INEXACT


def _line(place: str, tokens: str, size: str, document: str) -> str:
    return f"{place:>12}  {tokens:>17}  {size:>21}  {document}"


def _tokens(part: Record) -> str:
    return f"{part['first_token']}-{part['stop_token']}"


def _bytes(part: Record) -> str:
    return f"{part['first_byte']}-{part['stop_byte']}"


def _document(record: Record) -> str:
    number = f"{record['source']}:#{record['document']} in shard {record['shard']}"
    return number if record["name"] is None else visible(f"{record['name']}  ({number})")


def _example_line(place: str, positions: str, targets: str, example: str) -> str:
    return f"{place:>12}  {positions:>15}  {targets:>10}  {example}"


def _place(part: Record) -> tuple[str, str]:
    return f"{part['first_position']}-{part['stop_position']}", f"{part['targets']:,}"


def _example(record: Record) -> str:
    return visible(f"{record['path']}  ({record['source']}:#{record['example']})")
