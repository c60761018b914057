"""Look at data before a run, for the launcher, which has neither pyarrow nor tokenizers.

On standard input a JSON list of questions, on standard output one of answers, in the same order.

``read``: a section of a source on this machine, with ``examples``: whether it is one of examples,
not of documents, and ``limits``. Answer: ``files``, of each its name ``file``, its first ``rows``
(path, content, whether it has filler) and what is ``broken`` (path, why).

``judge``: rows by a chat template. ``tokenizer`` (a model's folder), the tokens ``added`` to it by
each stage that adds some, ``train_on``, ``arguments`` and ``today`` of the template,
``preferences`` (whether a row has two answers), and ``sources``: of each, ``fields`` and ``rows``.
Answer: ``unread``, arguments that change nothing, and ``refused``: number of the source, path, and
what the template does not show.

Where a source or a template cannot be used at all, the answer is ``problem``: where, found,
expected, remedy.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter

from distrain.config.chats import ChatSource
from distrain.config.rows import RowsOfSource
from distrain.config.sources import TextSource
from distrain.config.turns import RowError
from distrain.data.chats.encoder import ChatEncoder, Refused
from distrain.data.chats.example import Example
from distrain.data.chats.reading import BROKEN, WHOLE
from distrain.data.chats.shapes import example_of
from distrain.data.sources import open_rows
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.ranges import InputFile
from distrain.data.sources.row_request import RowRequest
from distrain.data.tokenizer.growing import grow_tokenizer
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError, DistrainError
from distrain.stages.preference_samples import encode_preferences

Asked = Mapping[str, Any]

MAX_WHOLE = 2**28
"""Bytes of a file in which a single row cannot be had without a million others."""
EXAMPLES: TypeAdapter[ChatSource] = TypeAdapter(Annotated[ChatSource, Field(discriminator="kind")])
DOCUMENTS: TypeAdapter[TextSource] = TypeAdapter(Annotated[TextSource, Field(discriminator="kind")])


def run_command() -> int:
    """Answer what is asked on standard input."""
    # What is odd is in the answers; what is logged would be read by nobody.
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    sys.stdout.write(json.dumps([answer(one) for one in asked], default=_text) + "\n")
    return 0


def answer(asked: Asked) -> dict[str, Any]:
    """Answer one question, or say what stands in the way."""
    try:
        if "judge" in asked:
            return judge(asked["judge"])
        section = (EXAMPLES if asked["examples"] else DOCUMENTS).validate_python(asked["read"])
        return {"files": list(read(section, LookLimits(**asked["limits"])))}
    except DistrainError as error:
        return {"problem": [error.where, error.found, error.expected, error.remedy]}


class LookLimits(NamedTuple):
    """How much is read: files, and of each file rows, and bytes of them as JSON."""

    files: int
    rows: int
    bytes: int


def read(section: ChatSource | TextSource, limits: LookLimits) -> Iterator[dict[str, Any]]:
    """Read the first rows of each file of a source.

    Raises:
        DataError: It cannot be had.
    """
    reader = open_rows(section, WHOLE)
    for file in reader.files()[: limits.files]:
        if _is_heavy(file):
            continue
        found: dict[str, Any] = {"file": file.url, "rows": [], "broken": []}
        room = limits.bytes
        (part,) = reader.ranges([file])
        for row in islice(reader.rows(part, RowRequest(limits.bytes)), limits.rows):
            if isinstance(row, Broken):
                # A longer row, and a longer file of JSON, may be within the recipe's own limit.
                if row.reason != "too_long":
                    found["broken"].append([row.path, BROKEN.get(row.reason, row.reason)])
                continue
            room -= len(json.dumps(row.fields, default=_text))
            if room < 0:
                break
            found["rows"].append([row.path, row.fields, row.has_filler])
        yield found


def _is_heavy(file: InputFile) -> bool:
    """Whether no row can be had but with all of its row group or batch, and these may be large."""
    with Path(file.url).open("rb") as stream:
        return file.size > MAX_WHOLE and stream.read(4) in (b"ARRO", b"PAR1")


def _text(value: object) -> str:
    """Write what JSON has no form for, such as days; texts of plain files come as bytes."""
    return value.decode("utf-8-sig", "replace") if isinstance(value, bytes) else str(value)


def judge(asked: Asked) -> dict[str, Any]:
    """Lay out the examples of one question.

    Raises:
        DataError: The tokenizer cannot be used, or the template serves no chat.
    """
    path = Path(asked["tokenizer"])
    with TemporaryDirectory(prefix="distrain-") as scratch:
        for number, names in enumerate(asked["added"]):
            folder = Path(scratch, str(number))
            grow_tokenizer(path, names, folder)
            path = folder
        try:
            encoder = ChatEncoder(
                path,
                Tokenizer.load(path),
                train_on=asked["train_on"],
                template_arguments=asked["arguments"],
                today=date.fromisoformat(asked["today"]),
            )
        except DataError as error:  # of a copy that nobody can look at: its template is the model's
            where = error.where.replace(str(path), asked["tokenizer"])
            raise DataError(where, error.found, error.expected, error.remedy) from error
    refused = [
        [number, each.path, each.detail]
        for number, source in enumerate(asked["sources"])
        for each in _refused(encoder, source, asked["preferences"])
    ]
    return {"unread": list(encoder.unread), "refused": refused}


def _refused(encoder: ChatEncoder, source: Asked, has_two: bool) -> list[Refused]:
    examples = list(_examples(source, has_two))
    found: Sequence[object]
    found = encode_preferences(encoder, examples) if has_two else encoder.encode(examples)
    return [each for each in found if isinstance(each, Refused)]


def _examples(source: Asked, has_two: bool) -> Iterator[Example]:
    rows = RowsOfSource(source["fields"], wants_preferences=has_two)
    for path, content, has_filler in source["rows"]:
        try:
            yield example_of(SourceRow(path, content, has_filler), path, rows)
        except RowError:
            continue  # the launcher, which read it first, has said so
