"""A GGUF file (llama.cpp's form of weights) as far as it can be judged without numpy.

Layout: magic, version, counts, metadata (key, type, value), the table of tensors (name, shape,
type, offset), padding, then the data. All of it little-endian, lengths in 64 bits.
"""

import hashlib
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.pretrained.gguf_types import (
    ARRAY,
    SCALARS,
    STRING,
    TENSOR_TYPES,
    TensorType,
)
from distrain.errors import PreflightError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
"""Of tensors in the data, unless ``general.alignment`` says otherwise; bytes."""
MAX_DIMENSIONS = 4
MAX_ITEMS = 16
"""Of an array that is kept; of a longer one (tokens, merges) only the length."""
SAMPLES, SAMPLE_BYTES = 64, 65536

Buffer = mmap.mmap | bytes


@dataclass(frozen=True, slots=True)
class GgufArray:
    """A long array in the metadata, of which only the length is known."""

    length: int


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A line of the table of tensors.

    Args:
        shape: Outermost dimension first, as in torch; the file has the opposite order.
        type: How the numbers are stored.
        start: Of its data, from the beginning of the file; bytes.
        size: Bytes.
    """

    shape: tuple[int, ...]
    type: TensorType
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """What a file says before its data; that all data is there was checked."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    digest: str
    """Of its beginning and size, and of blocks spread over the data; hex."""

    def read_floats(self, name: str) -> tuple[float, ...]:
        """Return the values of a small tensor of type F32."""
        tensor = self.tensors[name]
        with self.path.open("rb") as stream:
            stream.seek(tensor.start)
            return struct.unpack(f"<{tensor.size // 4}f", stream.read(tensor.size))


def read_gguf(path: Path) -> GgufFile:
    """Read header, metadata and table of a file, and compare its size with what they say.

    Raises:
        PreflightError: It is no GGUF file, of a version or form that is not read, cut off, or
            damaged; with the position in bytes.
    """
    try:
        with path.open("rb") as stream, _mapped(stream.fileno()) as content:
            return _Reader(path, content).read()
    except OSError as error:
        raise gguf_error(path, error.strerror or str(error), "a GGUF file") from error
    except ValueError:  # an empty file cannot be mapped
        raise gguf_error(path, "an empty file", "a GGUF file") from None


def gguf_error(path: Path, found: str, expected: str, remedy: str | None = None) -> PreflightError:
    """Return the error for a GGUF file that cannot be used."""
    return PreflightError(str(path), found, expected, remedy or "Copy or download the file again.")


def _mapped(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


class _Reader:
    """Goes through the beginning of a file once; each error says at which byte."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.content = content
        self.size = len(content)
        self.position = 0

    def read(self) -> GgufFile:
        self._read_magic()
        num_tensors, num_keys = self._number("Q", "a count"), self._number("Q", "a count")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._text("the name of a metadata key")
            metadata[key] = self._value(self._number("I", f"the type of {key}"), key)
        lines = [self._line() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment % 8:
            raise self._error(f"general.alignment {alignment!r}", "a multiple of 8")
        data = -(-self.position // alignment) * alignment
        header = self.position
        tensors = {}
        for name, shape, kind, offset in lines:
            if name in tensors:
                raise self._error(f"tensor {name} twice", "each name once")
            size = math.prod(shape) // kind.block * kind.size
            tensors[name] = GgufTensor(shape, kind, data + offset, size)
            if offset % alignment:
                raise self._error(f"{name} at offset {offset}", f"a multiple of {alignment}")
            if data + offset + size > self.size:
                raise self._error(
                    f"{self.size:,} bytes, a file that is cut off",
                    f"{name} up to byte {data + offset + size:,}",
                )
        return GgufFile(self.path, metadata, tensors, self._digest(header))

    def _read_magic(self) -> None:
        start = self._take(4, "its magic")
        if start == b"vers":
            self.position = 0
            raise gguf_error(
                self.path,
                "a pointer of Git LFS instead of the weights",
                "a GGUF file",
                "Fetch them with `git lfs pull`.",
            )
        if start != MAGIC:
            raise gguf_error(
                self.path,
                f"{start!r} at byte 0",
                f"{MAGIC!r}, with which a GGUF file begins",
                "Check what the file is.",
            )
        version = self._number("I", "its version")
        if version not in VERSIONS:
            big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            found = "a big-endian file" if big_endian else f"version {version}"
            raise gguf_error(
                self.path,
                f"{found} at byte 4",
                f"version {' or '.join(map(str, VERSIONS))}, little-endian",
                "Convert the model again with a current llama.cpp.",
            )

    def _take(self, count: int, what: str) -> bytes:
        end = self.position + count
        if end > self.size:
            raise self._error(
                f"the end of the file at byte {self.size:,} within {what}",
                f"{count:,} more bytes from byte {self.position:,} on",
            )
        taken = self.content[self.position : end]
        self.position = end
        return taken

    def _number(self, letter: str, what: str) -> Any:  # noqa: ANN401  (as the letter says)
        return struct.unpack(f"<{letter}", self._take(struct.calcsize(f"<{letter}"), what))[0]

    def _text(self, what: str) -> str:
        start = self.position
        content = self._take(self._number("Q", what), what)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            self.position = start
            raise self._error(f"{what} that is no UTF-8 ({error.reason})", "text") from None

    def _value(self, kind: int, key: str) -> Any:  # noqa: ANN401  (as the file says)
        if kind in SCALARS:
            return self._number(SCALARS[kind], key)
        if kind == STRING:
            return self._text(key)
        if kind != ARRAY:
            self.position -= 4
            raise self._error(f"type {kind} of {key}", "a type of GGUF metadata")
        item = self._number("I", f"the items of {key}")
        length = self._number("Q", f"the length of {key}")
        if length <= MAX_ITEMS or item == ARRAY:
            return [self._value(item, key) for _ in range(length)]
        if item == STRING:
            for _ in range(length):
                self._take(self._number("Q", key), key)
        elif item in SCALARS:
            self._take(length * struct.calcsize(f"<{SCALARS[item]}"), key)
        else:
            raise self._error(f"items of type {item} in {key}", "a type of GGUF metadata")
        return GgufArray(length)

    def _line(self) -> tuple[str, tuple[int, ...], TensorType, int]:
        name = self._text("the name of a tensor")
        dimensions = self._number("I", f"the dimensions of {name}")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            self.position -= 4
            raise self._error(f"{dimensions} dimensions of {name}", f"1 to {MAX_DIMENSIONS}")
        shape = tuple(self._number("Q", f"the shape of {name}") for _ in range(dimensions))
        number = self._number("I", f"the type of {name}")
        kind = TENSOR_TYPES.get(number)
        if kind is None:
            self.position -= 4
            known = ", ".join(kind.name for kind in TENSOR_TYPES.values())
            raise self._error(
                f"tensor type {number} of {name}",
                f"one of {known}",
                "Choose a file with other quantization, such as Q8_0 or BF16.",
            )
        if shape[0] % kind.block:
            raise self._error(f"{name} of {shape[0]} columns", f"a multiple of {kind.block}")
        return name, shape[::-1], kind, self._number("Q", f"the offset of {name}")

    def _digest(self, header: int) -> str:
        """Tell files apart without reading tens of gigabytes on each rank."""
        content = hashlib.blake2b(self.content[:header], digest_size=16)
        content.update(self.size.to_bytes(8, "little"))
        room = max(1, self.size - header - SAMPLE_BYTES)
        for number in range(SAMPLES):
            start = header + number * room // max(1, SAMPLES - 1)
            content.update(self.content[start : start + SAMPLE_BYTES])
        return content.hexdigest()

    def _error(self, found: str, expected: str, remedy: str | None = None) -> PreflightError:
        return gguf_error(self.path, f"{found} (byte {self.position:,})", expected, remedy)
