"""Judge examples before a run, for the launcher, which has no tokenizers: a JSON list in, one out.

In: mappings with ``tokenizer`` (a model's folder), ``train_on``, ``arguments`` and ``today`` of
its chat template, ``preferences`` (whether a row has two answers), and ``sources``: of each,
``fields`` and ``rows`` of path, content and whether it has filler. Out, in the same order:
``problem``, why the template serves no chat (where, found, expected, remedy); or ``unread``,
arguments that change nothing, and ``refused``: number of the source, path, and what the template
does not show.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from distrain.config.rows import RowsOfSource
from distrain.config.turns import RowError
from distrain.data.chats.encoder import ChatEncoder, Refused
from distrain.data.chats.example import Example
from distrain.data.chats.shapes import example_of
from distrain.data.sources.document import SourceRow
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DistrainError
from distrain.stages.preference_samples import encode_preferences

Asked = Mapping[str, Any]


def run_command() -> int:
    """Answer what is asked on standard input."""
    # What is odd is in the answers; what is logged would be read by nobody.
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    sys.stdout.write(json.dumps([judge(one) for one in asked]) + "\n")
    return 0


def judge(asked: Asked) -> dict[str, Any]:
    """Lay out the examples of one question."""
    path = Path(asked["tokenizer"])
    try:
        encoder = ChatEncoder(
            path,
            Tokenizer.load(path),
            train_on=asked["train_on"],
            template_arguments=asked["arguments"],
            today=date.fromisoformat(asked["today"]),
        )
    except DistrainError as error:
        return {"problem": [error.where, error.found, error.expected, error.remedy]}
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
