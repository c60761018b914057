"""``SHA256SUMS`` beside the files of a folder, as ``sha256sum --check`` reads it."""

import hashlib
import re
from pathlib import Path

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\n]+)")
"""The mark before the name: of ``sha256sum --binary``, which other tools use."""


def write_sums(folder: Path) -> None:
    """Digest the files of a folder that is complete; those in folders within it are not meant."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    lines = [f"{digest_of(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """Compare the files of a folder with what was written.

    Returns:
        What is wrong, in words; ``None`` if all are whole, or nothing is known about them. Files
        that somebody added do not count.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, IsADirectoryError):
        return f"{SUMS} cannot be read"
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            return f"{SUMS} cannot be read"
        digest, name = match.groups()
        if not (folder / name).is_file():
            return f"{name} is missing"
        if digest_of(folder / name) != digest:
            return f"{name} does not match its digest"
    return None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
