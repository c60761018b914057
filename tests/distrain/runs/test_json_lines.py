import json

import pytest

from distrain.monitor.metrics_file import truncate_after
from distrain.runs.durable import write_text
from distrain.runs.json_lines import TAIL_BYTES, RecordTail, last_records, read_records
from distrain.runs.records import append_record

RECORDS = [{"train/global_step": step, "data/first_sample": 8 * step} for step in range(1, 5)]
LINES = [json.dumps(record).encode() + b"\n" for record in RECORDS]
ZEROS = b"\0" * 30 + b"\n"
DAMAGES = {
    "whole": (b"".join(LINES), RECORDS, []),
    "no file": (None, [], []),
    "torn": (b"".join(LINES) + b'{"train/global_st', RECORDS, []),
    "torn, and yet JSON": (b"".join(LINES) + b'{"train/global_step": 9}', RECORDS, []),
    "zeros": (LINES[0] + ZEROS + b"".join(LINES[1:]), RECORDS, [2]),
    "zeros at the end": (b"".join(LINES) + ZEROS, RECORDS, [5]),
    "no UTF-8": (b"".join(LINES) + b'{"a": "\xff"}\n', RECORDS, [5]),
    "no object": (b"7\n" + b"".join(LINES) + b"[]\n\n", RECORDS, [1, 6, 7]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_reader_finds_the_same_records_in_a_damaged_file(name, tmp_path):
    content, expected, damaged = DAMAGES[name]
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    found: list[int] = []
    assert list(read_records(path, found.append)) == expected
    assert found == damaged
    assert last_records(path) == expected
    assert RecordTail(path).poll() == expected
    truncate_after(path, None)
    assert list(read_records(path)) == expected
    assert path.exists() == (content is not None)
    if content is not None:
        assert path.read_bytes() == b"".join(LINES)


def test_a_line_being_written_is_left_for_later(tmp_path):
    path = tmp_path / "records"
    tail = RecordTail(path)
    assert tail.poll() == []
    path.write_bytes(b'{"a": 1}\n{"a":')
    assert tail.poll() == [{"a": 1}]
    assert tail.poll() == []
    with path.open("ab") as file:
        file.write(b" 2}\n")
    assert tail.poll() == [{"a": 2}]


def test_records_of_a_replaced_file_are_not_missed(tmp_path):
    path = tmp_path / "records"
    tail = RecordTail(path)
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    tail.poll()
    write_text(path, '{"a": 1}\n')
    append_record(path, {"a": 9})
    assert tail.poll() == [{"a": 1}, {"a": 9}]


def test_the_last_records_of_a_large_file_are_read_without_its_beginning(tmp_path):
    path = tmp_path / "records"
    for number in range(TAIL_BYTES // 40):
        append_record(path, {"n": number, "text": "x" * 40})
    with path.open("ab") as file:
        file.write(b'{"n": 3000')
    records = last_records(path)
    assert records[-1]["n"] == TAIL_BYTES // 40 - 1
    assert 0 < len(records) < TAIL_BYTES // 40
