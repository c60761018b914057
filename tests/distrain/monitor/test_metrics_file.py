import pytest

from distrain.monitor.metrics_file import MetricsFile, truncate_after
from distrain.runs.json_lines import read_records

STEP = "train/global_step"


def steps(path):
    return [record[STEP] for record in read_records(path)]


@pytest.fixture
def path(tmp_path):
    file = MetricsFile(tmp_path / "pretrain" / "metrics.jsonl")
    for step in range(1, 7):
        file.append({STEP: step, "train/loss": 1 / step})
        if step % 3 == 0:
            file.append({STEP: step, "eval/loss": 2 / step})
    file.close()
    return file.path


def test_record_is_in_the_file_when_append_returns(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({STEP: 1})
    assert steps(file.path) == [1]


def test_truncation_keeps_records_of_the_step_and_before(path):
    assert truncate_after(path, 3) == 4  # 4, 5, 6 and the validation after 6
    assert steps(path) == [1, 2, 3, 3]


def test_truncated_file_goes_on_with_each_step_once(path):
    file = MetricsFile(path)
    file.truncate_after(4)
    for step in (5, 6, 7):
        file.append({STEP: step})
    assert steps(path) == [1, 2, 3, 3, 4, 5, 6, 7]


def test_line_cut_short_by_a_crash_is_dropped_on_opening(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    file = MetricsFile(path)
    file.append({STEP: 7})
    assert steps(path) == [1, 2, 3, 3, 4, 5, 6, 7]  # the torn one was the validation after 6


def test_line_lost_in_a_power_cut_is_dropped_on_opening(path, caplog):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    assert truncate_after(path, None) == 0
    assert path.read_bytes() == b"".join(lines[:1] + lines[2:])
    assert "damaged lines [2]" in caplog.text


def test_file_without_anything_to_drop_is_not_rewritten(path):
    inode = path.stat().st_ino
    MetricsFile(path).truncate_after(6)
    assert path.stat().st_ino == inode


def test_missing_file_has_nothing_to_drop(tmp_path):
    assert truncate_after(tmp_path / "metrics.jsonl", 0) == 0


def test_numbers_survive_the_rewrite_bitwise(path):
    loss = 0.1 + 0.2
    file = MetricsFile(path)
    file.append({STEP: 7, "train/loss": loss})
    file.append({STEP: 8, "train/loss": loss})
    file.truncate_after(7)
    assert list(read_records(path))[-1]["train/loss"] == loss
