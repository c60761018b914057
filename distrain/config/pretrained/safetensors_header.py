"""What a safetensors file says it holds, read without torch.

The form: the length of the header (8 bytes, little-endian), the header (JSON: name -> dtype,
shape, ``data_offsets`` counted from its end), then the data, without holes.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ELEMENT_BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Size of an element by the name of its dtype; others are newer than this table."""


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a header.

    Args:
        dtype: As safetensors names it.
        shape: Of the tensor.
        start: First byte in the file.
        stop: The byte after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class DamagedHeaderError(ValueError):
    """A file that is no whole safetensors file; says at which byte."""


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read the entries of a file, in the order of their data.

    Raises:
        DamagedHeaderError: It is no such file, or shorter or longer than its header says.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise DamagedHeaderError(
                "a pointer of Git LFS instead of the weights (`git lfs pull` fetches them)"
            )
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
            raise DamagedHeaderError(
                "a pickle of torch.save under this name, which may run code when it is read "
                "(load it where that is safe, and save it with save_pretrained)"
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise DamagedHeaderError(
                f"no safetensors file: {size} bytes, where its first 8 give a header of {length}"
            )
        header = _parsed(stream.read(length))
    header.pop("__metadata__", None)
    entries = {name: _entry(name, entry, 8 + length) for name, entry in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    _check_places(ordered, 8 + length, size)
    return ordered


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        header = json.loads(content)
    except UnicodeDecodeError as error:
        raise DamagedHeaderError(f"a header that is no text at byte {8 + error.start}") from error
    except json.JSONDecodeError as error:
        raise DamagedHeaderError(
            f"a header that is no JSON at byte {8 + error.pos} ({error.msg})"
        ) from error
    except RecursionError as error:
        raise DamagedHeaderError("a header of too many levels") from error
    if not isinstance(header, dict):
        raise DamagedHeaderError(f"a header that is a {type(header).__name__}")
    return header


def _entry(name: str, entry: object, data_start: int) -> StoredTensor:
    try:
        assert isinstance(entry, Mapping)
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        assert isinstance(dtype, str)
        assert all(isinstance(number, int) and number >= 0 for number in numbers)
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        raise DamagedHeaderError(f"an entry {name!r} without dtype, shape and place") from error
    bits = ELEMENT_BITS.get(dtype)
    expected = end - begin if bits is None else math.prod(shape) * bits // 8
    if end - begin != expected:
        raise DamagedHeaderError(
            f"{name!r} of {end - begin} bytes at byte {data_start + begin}, where {dtype} of shape "
            f"{list(shape)} takes {expected}"
        )
    return StoredTensor(dtype, tuple(shape), data_start + begin, data_start + end)


def _check_places(entries: Mapping[str, StoredTensor], data_start: int, size: int) -> None:
    reached = data_start
    for name, entry in entries.items():
        if entry.start != reached:
            raise DamagedHeaderError(
                f"{name!r} at byte {entry.start}, where what lies before it ends at {reached}"
            )
        if entry.stop > size:
            raise DamagedHeaderError(
                f"{size} bytes where its header says {max(e.stop for e in entries.values())}: "
                f"it ends within {name!r}, which begins at byte {entry.start}"
            )
        reached = entry.stop
    if size != reached:
        raise DamagedHeaderError(f"{size} bytes where its header says {reached}")
