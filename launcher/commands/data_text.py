"""What ``distrain data`` prints: records of the runtime as tables and readable text."""

import sys
from collections.abc import Sequence
from typing import Any

from launcher.text import plural, short_bytes, table

Record = dict[str, Any]

SHOWN_SHARDS = 10
FINGERPRINT_DIGITS = 12
ESCAPES = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
"""Documents may hold what a terminal takes for commands."""


def inspection_text(parts: Sequence[Record]) -> str:
    """Lay out what ``inspect`` found: one table of all parts, then each with its details."""
    header = ("SPLIT", "SOURCE", "TOKENS", "DOCUMENTS", "SHARDS", "SIZE", "DTYPE", "VOCABULARY")
    rows = [
        (
            part.get("split") or "-",
            part.get("source") or part["format"],
            f"{part['tokens']:,}",
            f"{part['documents']:,}",
            f"{len(part['shards']):,}",
            short_bytes(part["bytes"]),
            part["dtype"],
            "unknown" if part["vocab_size"] is None else f"{part['vocab_size']:,}",
        )
        for part in parts
    ]
    return "\n\n".join([table(header, rows), *(_details(part) for part in parts)])


def verified_text(record: Record) -> str:
    """Say in a line how one source or file came out, and name what is damaged."""
    name = _name(record) or record["path"]
    read = f"{plural(record['files'], 'file')}, {short_bytes(record['bytes'])}"
    if not record["damaged"]:
        return f"whole    {visible(name)}  ({read})"
    lines = [f"damaged  {visible(name)}  ({read})"]
    for problem in record["damaged"]:
        found = f"found {problem['found']}; expected {problem['expected']}."
        lines.append(visible(f"  {problem['where']}: {found} {problem['remedy']}"))
    return "\n".join(lines)


def published_line(record: Record) -> str:
    """Say in a line what lies at a URL now."""
    size = f"{plural(record['tokens'], 'token')} in {plural(record['shards'], 'shard')}"
    return f"there    {visible(_name(record) or '')}  {visible(record['url'])}  ({size})"


def source_of_published(url: str) -> str:
    """Write the setting of a recipe that reads from a URL."""
    return f"read it with  data.source: {{kind: tokens, format: distrain, paths: [{url}]}}"


def damage_text(count: int) -> str:
    """Say how much is damaged, at the end."""
    return f"error: {plural(count, 'problem')} found; each is named above"


def document_text(record: Record) -> str:
    """Write one document: a line about it, then its text."""
    place = f"{_name(record) or record['format']}: document {record['document']:,}"
    head = f"--- {place} of {record['documents']:,}, {plural(record['tokens'], 'token')}, "
    head += f"shard {record['shard']:,} from token {record['first_token']:,}"
    if record["name"]:
        head += f", {record['name']}"
    lines = [visible(head)]
    if "pieces" in record:
        lines.append("".join(_piece(piece) for piece in record["pieces"]))
    for token, name in record.get("ids", ()):
        lines.append(f"{token:>8}  {visible(name)}")
    left = record["tokens"] - record["shown"]
    if left:
        lines.append(f"... and {plural(left, 'token')} more (--max-tokens 0 shows all)")
    return "\n".join(lines)


def visible(text: str) -> str:
    """Replace what a terminal would obey, or cannot show, by its escape."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.translate(ESCAPES).encode(encoding, "backslashreplace").decode(encoding)


def _piece(piece: Record) -> str:
    if "text" in piece:
        return visible(piece["text"])
    return visible(f"[{piece['control']} {piece['id']}]")


def _name(record: Record) -> str:
    if not record.get("split"):
        return ""
    return f"{record['split']}/{record['source']}"


def _details(part: Record) -> str:
    lines = [f"{_name(part) or part['format']}  {visible(part['path'])}"]
    lines += [f"  {key:<18} {visible(value)}" for key, value in _facts(part)]
    if part.get("lengths"):
        lines.append(f"  {'document lengths':<18} {_lengths(part)}")
    if part.get("top_tokens"):
        lines.append(f"  {'frequent tokens':<18} {_frequent(part)}")
    if part["shards"]:
        lines.append(_shards(part["shards"]))
    return "\n".join(lines)


def _facts(part: Record) -> list[tuple[str, str]]:
    facts = []
    if part["tokenizer"] is not None:
        facts.append(("tokenizer", part["tokenizer"][:FINGERPRINT_DIGITS]))
    if part["eos_id"] is not None:
        facts.append(("end of document", f"id {part['eos_id']}"))
    if part.get("sampled_documents") is not None:
        ending = f"{part['ending_with_eos']:,} of {part['sampled_documents']:,} documents sampled"
        facts.append(("ending with it", ending))
    if part.get("text_bytes"):
        ratio = part["tokens"] / part["text_bytes"]
        size = short_bytes(part["text_bytes"])
        facts.append(("text", f"{size} of UTF-8, {ratio:.4f} tokens a byte"))
    if part.get("encoder"):
        facts.append(("encoded by", part["encoder"]))
    if part.get("pairs") is not None:
        facts.append(("pairs", f"{part['pairs']:,}"))
    if part.get("storage", "raw") != "raw":
        facts.append(("stored as", part["storage"]))
    if part.get("highest_sampled_id") is not None:
        sampled = f"{part['highest_sampled_id']:,} (of {part['sampled_tokens']:,} ids sampled)"
        facts.append(("highest id", sampled))
    if part.get("split") == "test":
        facts.append(("content", "not looked at: the test split is for evaluate alone"))
    return facts


def _lengths(part: Record) -> str:
    shown = "  ".join(f"{name} {value:,}" for name, value in part["lengths"].items())
    sampled = part["lengths_of"] < part["documents"]
    return shown + (f"  (of {part['lengths_of']:,} documents sampled)" if sampled else "")


def _frequent(part: Record) -> str:
    return "  ".join(
        f"{token['id'] if token['name'] is None else visible(token['name'])}"
        f" {100 * token['share']:.1f}%"
        for token in part["top_tokens"]
    )


def _shards(shards: Sequence[Record]) -> str:
    rows = [
        (
            "",
            visible(shard["name"]),
            f"{shard['tokens']:,}",
            f"{shard['documents']:,}",
            short_bytes(shard["bytes"]),
            visible("; ".join(shard.get("remarks", ()))),
        )
        for shard in shards[:SHOWN_SHARDS]
    ]
    lines = [table(("", "SHARD", "TOKENS", "DOCUMENTS", "SIZE", ""), rows)]
    if len(shards) > SHOWN_SHARDS:
        lines.append(f"  ... and {len(shards) - SHOWN_SHARDS:,} more (--json lists all)")
    return "\n".join(lines)
