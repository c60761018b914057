"""The same few documents as a file of every format."""

import csv
import gzip
import io
import json
from pathlib import Path

import zstandard

from distrain.config.sources import FilesSource
from distrain.data.sources import open_source
from distrain.data.sources.document import Document
from distrain.data.sources.ranges import InputRange

ROWS = [{"label": number % 3, "text": f"text {number} ü\nits line"} for number in range(300)]
EXPECTED = [(row["text"], str(row["label"])) for row in ROWS]


def json_lines(rows=ROWS) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_table(rows=ROWS) -> bytes:
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue().encode()


def parquet_table(rows=ROWS, **settings) -> bytes:
    import pyarrow
    from pyarrow import parquet

    content = io.BytesIO()
    settings = {"row_group_size": 40, **settings}
    parquet.write_table(pyarrow.Table.from_pylist(rows), content, **settings)
    return content.getvalue()


def arrow_file(rows=ROWS, is_stream=False) -> bytes:
    import pyarrow
    from pyarrow import ipc

    table = pyarrow.Table.from_pylist(rows)
    content = io.BytesIO()
    with (ipc.new_stream if is_stream else ipc.new_file)(content, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    return content.getvalue()


def every_format() -> dict[str, bytes]:
    """File name -> content; all hold ``ROWS``."""
    return {
        "a.jsonl": json_lines(),
        "a.ndjson.gz": gzip.compress(json_lines()),
        "a.jsonl.zst": zstandard.compress(json_lines()),
        "a.csv": csv_table(),
        "a.csv.gz": gzip.compress(csv_table()),
        "a.parquet": parquet_table(),
        "a.feather": arrow_file(),
        "a.arrow": arrow_file(is_stream=True),
    }


def files_source(*paths: str | Path, **settings) -> FilesSource:
    return FilesSource(kind="files", paths=tuple(map(str, paths)), **settings)


def read_parts(source, range_bytes: int = 2**26) -> tuple[list[InputRange], list]:
    """Return the ranges, and what each holds, every one read by a reader of its own."""
    reader = open_source(source, range_bytes)
    parts = reader.ranges(reader.files())
    # A plan is kept as records, and other processes read by it.
    kept = [InputRange.from_record(json.loads(json.dumps(part.to_record()))) for part in parts]
    assert kept == parts
    return parts, [list(open_source(source, range_bytes).read(part)) for part in kept]


def read_all(source, range_bytes: int = 2**26) -> list:
    return [found for part in read_parts(source, range_bytes)[1] for found in part]


def texts_and_labels(found: list) -> list:
    return [(item.text, item.label) if isinstance(item, Document) else item for item in found]
