"""The commit record: what a checkpoint consists of, to the byte.

``commit.json`` holds size and SHA-256 of every other file, the step, the number of ranks that
wrote, the digest of the content, and a digest of itself. It has one possible spelling (canonical
JSON), so a flipped byte anywhere in it is found like one anywhere else.
"""

import errno
import hashlib
import json
import pickle
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distrain.checkpoint.layout import COMMIT, EXTRA, METADATA, Name
from distrain.errors import CheckpointError
from distrain.fault.page import page
from distrain.runs import durable

FORMAT_VERSION = 1
CHUNK_BYTES = 1 << 20
"""Read at a time."""


@dataclass(frozen=True)
class CommittedFile:
    """One file of a checkpoint."""

    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True)
class Content:
    """Digests of what the tensors hold, whoever wrote them and wherever; see ``content.py``."""

    product: str
    """Of weights and buffers: names what a later stage is built from."""
    rest: str
    """Of all else, such as moments."""


@dataclass(frozen=True)
class Commit:
    """What ``commit.json`` says."""

    step: int
    world_size: int
    """Ranks that wrote; any number may read."""
    files: Mapping[str, CommittedFile]
    content: Content | None = None
    """``None``: written by a version that took no digest of the content."""
    format_version: int = FORMAT_VERSION


class DamagedError(Exception):
    """A checkpoint is not what was committed; the message is the reason."""


def digest_file(path: Path) -> CommittedFile:
    """Read a file once: its size and digest."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            size += count
            page.mark_chunk()
    return CommittedFile(size, digest.hexdigest())


def write_commit(folder: Path, commit: Commit) -> None:
    """Write the record; from now on ``verify`` finds every change."""
    durable.write_file(folder / COMMIT, _encode(commit))


def _encode(commit: Commit) -> bytes:
    body = asdict(commit)
    # Beside the body, as it cannot cover itself.
    digest = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({"commit": body, "sha256": digest})


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return (text + "\n").encode("ascii")


def read_commit(folder: Path) -> Commit:
    """Read the record and check it against itself and the folder's name.

    Raises:
        DamagedError: It is missing, changed, of an impossible form, or that of another step.
        CheckpointError: It is whole but of a later format.
        OSError: It cannot be read here, which says nothing about the bytes.
    """
    body = _read_body(folder / COMMIT)
    version = body.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            str(folder),
            f"format version {version}",
            f"format version {FORMAT_VERSION}",
            "Use the version of distrain that wrote it.",
        )
    try:
        commit = _decode(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{COMMIT} is no commit record: {error!r}") from error
    name = Name.parse(folder.name)
    if name is not None and name.step != commit.step:
        raise DamagedError(f"{COMMIT} is that of step {commit.step}")
    return commit


def read_extra(folder: Path) -> dict[str, Any]:
    """Read what was saved with the step besides tensors.

    Raises:
        DamagedError: It is not there, or no JSON object.
        OSError: It cannot be read here.
    """
    return _read_object(folder / EXTRA)


def _read_body(path: Path) -> dict[str, Any]:
    """Return what the record states, when its digest and spelling are its own."""
    record = _read_object(path)
    try:
        body = record["commit"]
        is_own = record["sha256"] == hashlib.sha256(_canonical(body)).hexdigest()
        # The spelling too: a flipped byte may leave JSON that means the same.
        is_own = is_own and path.read_bytes() == _canonical(record)
    except (ValueError, KeyError, RecursionError) as error:
        raise DamagedError(f"{path.name} cannot be read: {error!r}") from error
    if not is_own:
        raise DamagedError(f"{path.name} does not match its own digest")
    if not isinstance(body, dict):
        raise DamagedError(f"{path.name} is no commit record but a {type(body).__name__}")
    return body


def _read_object(path: Path) -> dict[str, Any]:
    try:
        # Not opened otherwise: a pipe of that name would be waited for, for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamagedError(f"{path.name} is not a file")
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):  # or the checkpoint itself is no folder
        raise DamagedError(f"{path.name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{path.name} cannot be read: it is no JSON object")
    return value


def _decode(body: Mapping[str, Any]) -> Commit:
    """Make the record of what its JSON says; any error means that the JSON is no record."""
    files = {name: CommittedFile(**fields) for name, fields in body["files"].items()}
    content = None if body.get("content") is None else Content(**body["content"])
    if not all(_is_count(file.size) and isinstance(file.sha256, str) for file in files.values()):
        raise ValueError("a file without size and digest")
    if body["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format version {body['format_version']}")
    if not (_is_count(body["step"]) and _is_count(body["world_size"])):
        raise ValueError(f"step {body['step']}, world size {body['world_size']}")
    if content and not all(isinstance(digest, str) for digest in asdict(content).values()):
        raise ValueError("a digest of the content that is no text")
    return Commit(body["step"], body["world_size"], files, content)


def _is_count(value: object) -> bool:
    # To Python, true is an integer; in a record it is none.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def verify(folder: Path, *, part: int = 0, num_parts: int = 1) -> str | None:
    """Compare a checkpoint with its commit record.

    Args:
        folder: The checkpoint.
        part: Digest only this share of the files; names and sizes are always compared.
        num_parts: Number of shares.

    Returns:
        What is wrong, in words for the user; ``None`` when it is whole.

    Raises:
        CheckpointError: It cannot be judged: unreadable here, or of a later format.
    """
    try:
        commit = read_commit(folder)
        _compare_names(folder, commit)
        # Largest first and in turn: the shares are about equally large.
        ordered = sorted(commit.files.items(), key=lambda item: (-item[1].size, item[0]))
        for name, record in ordered[part::num_parts]:
            if digest_file(folder / name) != record:
                raise DamagedError(f"{name} does not match its digest")  # noqa: TRY301
        # By one share: these files are small, and their digests were compared like the others'.
        if part == 0:
            _read_again(folder, commit)
    except DamagedError as damage:
        return str(damage)
    except OSError as error:
        if error.errno == errno.EIO:
            return f"{error.filename} cannot be read: {error.strerror}"
        # A share that is away or a wrong owner says nothing about the bytes.
        raise CheckpointError(
            str(folder),
            f"{error.strerror or error} while reading {error.filename or 'it'}",
            "a readable checkpoint",
            "Make the folder readable for this user on every node, then run the same command.",
        ) from error
    return None


def _read_again(folder: Path, commit: Commit) -> None:
    """Read what a resume will read besides tensors; a digest may be as forged as its file."""
    if EXTRA in commit.files:
        read_extra(folder)
    if METADATA in commit.files:
        from distrain.checkpoint.index import IndexReader

        try:
            IndexReader(folder).read_metadata()
        except pickle.UnpicklingError as error:
            raise DamagedError(f"{METADATA} cannot be read: {error}") from error


def _compare_names(folder: Path, commit: Commit) -> None:
    # An NFS client shows a removed file that is still open as .nfs*; it is not ours.
    sizes = {
        path.name: path.stat().st_size if path.is_file() else -1
        for path in folder.iterdir()
        if path.name != COMMIT and not path.name.startswith(".nfs")
    }
    if missing := sorted(commit.files.keys() - sizes.keys()):
        raise DamagedError(f"{missing[0]} is missing")
    if unexpected := sorted(sizes.keys() - commit.files.keys()):
        raise DamagedError(f"{unexpected[0]} does not belong to it")
    for name, record in commit.files.items():
        if sizes[name] != record.size:
            raise DamagedError(f"{name} has {sizes[name]} bytes, not {record.size}")
