"""The base of every recipe section, and the number types that accept units (``2.5B``, ``24h``)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

COUNT_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
DECIMAL_BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BINARY_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
BYTE_UNITS = {"": 1} | DECIMAL_BYTES | BINARY_BYTES
DURATION_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PLAIN_BITS = 16
"""Limits that are larger powers of two are written as such."""


class Section(BaseModel):
    """One mapping of the recipe: frozen, and an unknown key is an error."""

    yields: ClassVar[frozenset[str]] = frozenset()
    """Keys that ``defaults`` give to other kinds of stages alone, where the recipe has such."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class NameIn:
    """Marks a text that is a key of one of the code's dicts.

    Looked up when a recipe is read, so an entry in the dict is all that a new name needs. What is
    said of other words is what is said of a ``Literal``.
    """

    known: Mapping[str, object]

    @property
    def literal(self) -> Any:  # noqa: ANN401  (a type)
        """The names there are, as a type."""
        return Literal[tuple(self.known)]

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"enum": list(self.known)}

    def _check(self, value: object) -> object:
        if not isinstance(value, str) or value not in self.known:
            expected = " or ".join(repr(name) for name in self.known)
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value


def parse_count(value: Any) -> Any:  # noqa: ANN401  (pydantic hands over whatever the YAML held)
    """Read ``512``, ``512k``, ``2.5B`` as an integer; anything else is left to the type check.

    Raises:
        ValueError: The value has a unit, but does not come out as a whole number.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kMBT]?)", value.strip())
    if match is None:
        raise ValueError(f"'{value}' is not a count; write a number such as 500, 512k, 10M or 2.5B")
    count = Decimal(match[1].replace("_", "")) * COUNT_UNITS[match[2]]  # float would round 1.1B
    if count != int(count):
        raise ValueError(f"'{value}' is not a whole number")
    return int(count)


def parse_bytes(value: Any) -> Any:  # noqa: ANN401
    """Read ``20GiB``, ``1.5GB``, ``512MiB`` as bytes; numbers are bytes already.

    Raises:
        ValueError: Something that is no size.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", value.strip())
    if match is None or match[2] not in BYTE_UNITS:
        raise ValueError(f"'{value}' is not a size; write one such as 512MiB, 20GiB or 20GB")
    return int(Decimal(match[1]) * BYTE_UNITS[match[2]])


def parse_duration(value: Any) -> Any:  # noqa: ANN401
    """Read ``90s``, ``10m``, ``24h``, ``1d12h`` or Slurm's ``24:00:00`` as seconds.

    Raises:
        ValueError: A bare number (its unit would be a guess) or something that is no duration.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    text = str(value).strip()
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text)
    if clock is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    parts = re.findall(r"(\d+)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(
            f"'{text}' is not a duration; write one with its unit, such as 90s, 10m or 24h"
        )
    return sum(int(number) * DURATION_UNITS_S[unit] for number, unit in parts)


def format_duration(seconds: int) -> str:
    """Write seconds so that ``parse_duration`` reads the same number back, such as ``1h30m``."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def format_limit(value: float) -> str:
    """Write a limit so that it is exact: ``2^63``, which six digits would only come near."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power > PLAIN_BITS and value == 2**power else f"{value:g}"


def check_limits(section: Section, lower: str, upper: str) -> None:
    """Refuse a lower limit above the upper one; a limit that is ``None`` fits any other.

    Raises:
        ValueError: Names both and their values.
    """
    low, high = getattr(section, lower), getattr(section, upper)
    if low is not None and high is not None and low > high:
        raise ValueError(f"{lower} {low} is above {upper} {high}; nothing lies between them")


Count = Annotated[
    int,
    BeforeValidator(parse_count),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "string", "pattern": r"^[0-9][0-9_]*(\.[0-9]+)?\s*[kMBT]?$"},
            ]
        }
    ),
]
ByteSize = Annotated[
    int,
    BeforeValidator(parse_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer"},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*([kMGT]B|[KMGT]iB)?$"},
            ]
        }
    ),
]
Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used="json-unless-none"),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^((\d+[smhd])+|(\d+-)?\d+:[0-5]\d:[0-5]\d)$",
        }
    ),
]
"""Seconds. Written to a file with units, as it must be read."""
