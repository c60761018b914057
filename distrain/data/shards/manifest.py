"""The record of one source in one split, written last: what its folder holds, and digests of it.

The folder is ``<prepare>/<split>/<source>/``; without a whole manifest it is nothing. The test
split opens for ``evaluate`` alone. The manifest stays small: what grows with the data (digests of
blocks, input ranges, names of documents) lies in files beside it, whose digests it holds.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distrain.config.data import MAIN_SOURCE, SPLITS
from distrain.data.shards.digests import BLOCK_BYTES, FileRecord
from distrain.data.shards.verification import check_files, damaged
from distrain.errors import DataError, PreflightError

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
TEST_SPLIT = "test"
TEST_STAGE_KIND = "evaluate"
SOURCE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
TOKEN_COUNTS = "unigram.npy"
PAIRS = "pairs.jsonl"
BLOCK_TABLE = "blocks.table"
"""Of a published source, beside its manifest; see ``remote.shards``."""
INPUTS = "inputs.jsonl"
"""One ``inputs.RecordedRange`` a line: what the documents were read from, in their order."""
SPECIAL_TEXT = "ordinary"
"""Characters of a control token in a text are encoded as text, never as that token."""


@dataclass(frozen=True)
class ShardRecord:
    """Files of one name and several endings.

    ``.bin``: token ids; ``.idx``: document ends (uint64, within the shard); ``.blocks``: 16 bytes
    for each block of the ``.bin``, see ``digests``; ``.paths.zst``: names of the documents, each
    followed by a NUL byte, if there are names; ``.<column>``: one value a document.
    """

    name: str
    tokens: int
    documents: int


@dataclass(frozen=True)
class Manifest:
    """Counts, settings and files of one source in one split.

    Args:
        dtype: ``uint16`` or ``uint32``, little-endian.
        text_bytes: UTF-8 bytes of all documents, normalized.
        tokenizer: Fingerprint of the tokenizer that made the tokens.
        corpus: Digest of the documents and settings that the split was made from.
        pairs: Number of instruction pairs; ``None`` if none were asked for.
        encoder: Engine that encoded, and its version; engines in use give equal ids.
        settings: Digest of the filters and of all else that decides which documents are in.
        inputs: Number of input ranges in ``inputs.jsonl``.
        columns: Type of each per-document column, by name.
        block_bytes: Size of the blocks of ``.bin`` that have digests of their own.
        storage: ``raw``, or ``zstd`` where the blocks lie compressed (``publish``).
        block_table: Of a published source, the record of ``blocks.table``.
    """

    split: str
    source: str
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
    encoder: str = ""
    settings: str = ""
    special_text: str = SPECIAL_TEXT
    inputs: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    block_bytes: int = BLOCK_BYTES
    storage: str = "raw"
    block_table: FileRecord | None = None

    @property
    def digest(self) -> str:
        """SHA-256 that stands for the data: equal wherever it lies and whatever engine made it."""
        # Without what says how the data lies or was made: a published copy is the same data.
        content = asdict(self)
        for key in ("storage", "block_table", "encoder"):
            del content[key]
        return _digest(content)

    def to_text(self) -> str:
        """Serialize, with a checksum of its own; a line for each field, each shard and file."""
        content: dict[str, Any] = {"version": FORMAT_VERSION, **asdict(self)}
        lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in content.items()]
        lines.append(f'"sha256": "{_digest(content)}"')
        return "{\n" + ",\n".join(lines) + "\n}\n"


def parse_manifest(text: str, where: Path | str) -> Manifest:
    """Read what ``to_text`` wrote.

    Raises:
        DataError: It is damaged, or of another format version.
    """
    # Before the version: a damaged file may well parse, and would be blamed on another release.
    content = _checked(text)
    if content is None:
        raise damaged(where, "a manifest whose checksum does not fit its content")
    version = content.pop("version")
    if version != FORMAT_VERSION:
        raise DataError(
            str(where),
            f"shards of another format version ({version})",
            f"version {FORMAT_VERSION}",
            "Remove the stage's folder and run the prepare stage again.",
        )
    content["shards"] = tuple(ShardRecord(**shard) for shard in content["shards"])
    content["files"] = {name: FileRecord(**entry) for name, entry in content["files"].items()}
    if content["block_table"] is not None:
        content["block_table"] = FileRecord(**content["block_table"])
    return Manifest(**content)


def is_whole_manifest(text: bytes) -> bool:
    """Return whether ``parse_manifest`` would find it undamaged."""
    return _checked(text.decode("utf-8", "replace")) is not None


def open_manifest(
    folder: Path, split: str, source: str = MAIN_SOURCE, *, stage_kind: str, verify: bool = True
) -> tuple[Path, Manifest]:
    """Return folder and checked manifest of a source in ``split``; every reader goes through here.

    Args:
        folder: Of the prepare stage.
        split: One of ``SPLITS``.
        source: One of ``list_sources``.
        stage_kind: Kind of the stage that wants to read.
        verify: Also read every file and compare its digest; sizes are always compared.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
        DataError: The split is missing, or one of its files is missing or damaged.
    """
    check_access(folder, split, source, stage_kind=stage_kind)
    return folder / split / source, check_split(folder, split, source, verify=verify)


def check_access(folder: Path | str, split: str, source: str, *, stage_kind: str) -> None:
    """Refuse what is no name, and the test split to all stages but ``evaluate``.

    Raises:
        PreflightError: The test split is asked for by another stage than ``evaluate``.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; expected one of {', '.join(SPLITS)}")
    # Names become folders: neither ``..`` nor a slash may get into a path.
    if not SOURCE_NAME.fullmatch(source):
        raise ValueError(f"source {source!r}; expected letters, digits, '_', '-' and '.'")
    if split == TEST_SPLIT and stage_kind != TEST_STAGE_KIND:
        raise PreflightError(
            f"{folder}/{split}",
            f"a stage of kind '{stage_kind}' opening the test split",
            f"a stage of kind '{TEST_STAGE_KIND}'",
            "Use the validation split; test figures count only if nothing was chosen by them.",
        )


def check_split(
    folder: Path, split: str, source: str = MAIN_SOURCE, *, verify: bool = True
) -> Manifest:
    """Return the counts of a finished split, without opening it: for the stage that wrote it.

    Raises:
        DataError: The split is missing, or one of its files is missing or damaged.
    """
    path = folder / split / source
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise missing(path, folder, split, source) from None
    manifest = parse_manifest(text, path / MANIFEST)
    # A manifest is whole wherever it is copied to: the test split must not pass for train.
    check_names(manifest, split, source, path / MANIFEST)
    # A published copy in a local folder: its blocks have to be decompressed, which a mapping
    # cannot.
    if manifest.storage != "raw":
        raise DataError(
            str(path / MANIFEST),
            f"shards stored as {manifest.storage}",
            "raw shards, as a prepare stage writes them",
            f"Give the folder as a URL (file://{folder.absolute()}) where shards are read.",
        )
    check_files(path, manifest.files, verify=verify, block_bytes=manifest.block_bytes)
    return manifest


def check_names(manifest: Manifest, split: str, source: str, where: Path | str) -> None:
    """Refuse a manifest that was moved to where another split or source is looked for.

    Raises:
        DataError: It names another split or source.
    """
    for what, name, wanted in (
        ("split", manifest.split, split),
        ("source", manifest.source, source),
    ):
        if name != wanted:
            raise damaged(where, f"the manifest of {what} '{name}' in place of '{wanted}'")


def list_sources(folder: Path, split: str) -> list[str]:
    """Return the names of the finished sources of a split, sorted."""
    return sorted(path.parent.name for path in (folder / split).glob(f"[!.]*/{MANIFEST}"))


def missing(path: Path, folder: Path, split: str, source: str) -> DataError:
    """Build the error for a source that is not in a split."""
    known = list_sources(folder, split)
    return DataError(
        str(path),
        f"no {MANIFEST}" + (f"; there are: {', '.join(known)}" if known else ""),
        f"source '{source}' of the finished {split} split of a prepare stage",
        "Name one of these sources." if known else "Run the prepare stage first.",
    )


def _checked(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    # Taken out before hashing, as it is the checksum of all the rest.
    if not isinstance(content, dict) or content.pop("sha256", None) != _digest(content):
        return None
    return content


def _lines(value: object) -> str:
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
        return "{\n " + ",\n ".join(entries) + "\n}"
    if isinstance(value, (list, tuple)) and value:
        return "[\n " + ",\n ".join(json.dumps(entry) for entry in value) + "\n]"
    return json.dumps(value)


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
