"""The record of one split, written last: what the folder holds, and a checksum of each file.

A folder without a whole manifest is not a split. The test split opens for ``evaluate`` alone.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distrain.errors import DataError, PreflightError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
SPLITS = ("train", "validation", "test")
TEST_SPLIT = "test"
TEST_STAGE_KIND = "evaluate"
TOKEN_COUNTS = "unigram.npy"
PAIRS = "pairs.jsonl"


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """One ``.bin`` of tokens and its ``.idx`` of document ends (uint64, within the shard)."""

    name: str
    """Of both files, without the ending."""
    tokens: int
    documents: int


@dataclass(frozen=True)
class Manifest:
    """What one split holds.

    Args:
        dtype: ``uint16`` or ``uint32``, little-endian.
        text_bytes: UTF-8 bytes of all documents, normalised.
        tokenizer: Fingerprint of the tokenizer that made the tokens.
        corpus: Digest of the documents and settings that the split was made from.
        pairs: Number of instruction pairs; ``None`` if none were asked for.
    """

    split: str
    dtype: str
    tokens: int
    documents: int
    text_bytes: int
    vocab_size: int
    eos_id: int
    tokenizer: str
    corpus: str
    pairs: int | None
    shards: tuple[ShardRecord, ...]
    files: dict[str, FileRecord]

    def to_text(self) -> str:
        """Serialise, with a checksum of its own."""
        content: dict[str, Any] = {"version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n"


def parse_manifest(text: str, path: Path) -> Manifest:
    """Read what ``to_text`` wrote.

    Raises:
        DataError: It is damaged, or of another format version.
    """
    try:
        content = json.loads(text)
        intact = isinstance(content, dict) and content.pop("sha256", None) == _digest(content)
    except ValueError:
        intact = False
    if not intact:
        raise damaged(path, "a manifest whose checksum does not fit its content")
    if content.pop("version") != FORMAT_VERSION:
        raise DataError(
            str(path),
            "shards of another format version",
            f"version {FORMAT_VERSION}",
            "Remove the stage's folder and run the prepare stage again.",
        )
    content["shards"] = tuple(ShardRecord(**shard) for shard in content["shards"])
    content["files"] = {name: FileRecord(**entry) for name, entry in content["files"].items()}
    return Manifest(**content)


def open_manifest(
    folder: Path, split: str, *, stage_kind: str, verify: bool = True
) -> tuple[Path, Manifest]:
    """Return the folder and the checked manifest of ``split``; every reader goes through here.

    Args:
        folder: Of the prepare stage.
        split: One of ``SPLITS``.
        stage_kind: Kind of the stage that wants to read.
        verify: Also read every file and compare its SHA-256; sizes are always compared.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
        DataError: The split is missing, or one of its files is missing or damaged.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; expected one of {', '.join(SPLITS)}")
    if split == TEST_SPLIT and stage_kind != TEST_STAGE_KIND:
        raise PreflightError(
            str(folder / split),
            f"a stage of kind '{stage_kind}' opening the test split",
            f"a stage of kind '{TEST_STAGE_KIND}'",
            "Use the validation split; test figures count only if nothing was chosen by them.",
        )
    return folder / split, check_split(folder, split, verify=verify)


def check_split(folder: Path, split: str, *, verify: bool = True) -> Manifest:
    """Return the counts of a finished split, without opening it: for the stage that wrote it.

    Raises:
        DataError: The split is missing, or one of its files is missing or damaged.
    """
    path = folder / split
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise DataError(
            str(path),
            f"no {MANIFEST}",
            f"the finished {split} split of a prepare stage",
            "Run the prepare stage first.",
        ) from None
    manifest = parse_manifest(text, path / MANIFEST)
    if manifest.split != split:
        raise damaged(path / MANIFEST, f"the manifest of split '{manifest.split}'")
    for name, record in manifest.files.items():
        _check_file(path / name, record, verify=verify)
    return manifest


def damaged(path: Path, found: str) -> DataError:
    """Build the error for a file that is not what was written."""
    return DataError(
        str(path),
        found,
        "the file that the prepare stage wrote",
        f"Restore it from a copy, or remove the folder {path.parent} and run the prepare stage "
        "again: it makes the same bytes.",
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_file(path: Path, record: FileRecord, *, verify: bool) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise damaged(path, "nothing") from None
    if size != record.size_bytes:
        raise damaged(path, f"{size} bytes where {record.size_bytes} were written")
    if verify and sha256_of(path) != record.sha256:
        raise damaged(path, "other content (its SHA-256 differs from the manifest's)")


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
