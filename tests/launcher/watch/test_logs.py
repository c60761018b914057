import os

import pytest

from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder
from launcher.watch.logs import (
    LogTail,
    attempt_logs,
    failure_excerpt,
    find_log,
    lines_of_rank,
    read_lines,
)

TORCHRUN_SUMMARY = """\
============================================================
distrain FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-01-01_00:00:02
  host      : node1
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 11)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:01
  host      : node1
  rank      : 12 (local_rank: 1)
  exitcode  : 1 (pid: 12)
  error_file: <N/A>
============================================================
"""


def write_log(folder, name, text, age_s):
    folder.logs.mkdir(parents=True, exist_ok=True)
    path = folder.logs / name
    path.write_text(text)
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


def test_the_excerpt_is_that_of_the_rank_that_failed_first():
    noise = "".join(f"[rank 0] waits {n}\n[rank 1] waits {n}\n" for n in range(50))
    text = f"{noise}[rank 12] Traceback\n[rank 0] peer is gone\n[rank 12] the cause\n"
    excerpt = failure_excerpt(text + TORCHRUN_SUMMARY)
    assert excerpt == "[rank 12] Traceback\n[rank 12] the cause"


def test_the_excerpt_of_a_single_process_is_its_last_lines():
    text = "\n".join(f"line {n}" for n in range(100))
    assert failure_excerpt(text, count=2) == "line 98\nline 99"


def test_the_latest_attempt_of_the_latest_stage_is_shown_by_default(tmp_path):
    run = RunFolder(tmp_path)
    old = write_log(run.stage("prepare"), "attempt_1.log", "p", age_s=30)
    first = write_log(run.stage("pretrain"), "attempt_1.log", "1", age_s=20)
    second = write_log(run.stage("pretrain"), "attempt_2.log", "2", age_s=10)
    job = write_log(run.stage("pretrain"), "slurm-7.log", "job", age_s=5)
    stages = ["prepare", "pretrain"]

    assert attempt_logs(run.stage("pretrain")) == [first, second, job]
    assert find_log(run, stages, None, None) == job
    assert find_log(run, stages, "prepare", None) == old
    assert find_log(run, stages, "pretrain", 1) == first
    with pytest.raises(NotFoundError, match="attempt 3 of pretrain"):
        find_log(run, stages, "pretrain", 3)


def test_a_run_that_never_started_has_no_logs(tmp_path):
    with pytest.raises(NotFoundError, match="a stage that was started: prepare"):
        find_log(RunFolder(tmp_path), ["prepare"], None, None)


def test_the_lines_of_one_rank_are_told_by_what_torchrun_puts_before_them(tmp_path):
    lines = ["[rank 0] a", "[rank 11] b", "torchrun itself", "[rank 1] c", "12:00:00 [rank 1] d"]
    assert lines_of_rank(lines, 1) == ["[rank 1] c"]
    assert lines_of_rank(lines, 0) == ["[rank 0] a"]
    assert lines_of_rank(lines, None) == lines
    assert lines_of_rank(["alone"], 0) == ["alone"]
    path = tmp_path / "log"
    path.write_text("\n".join(lines))
    with pytest.raises(NotFoundError, match=r"rank 2 in .*one of: 0, 1, 11"):
        read_lines(path, 2)


def test_a_growing_log_is_followed_line_by_line_and_into_the_next_attempt(tmp_path):
    stage = RunFolder(tmp_path).stage("pretrain")
    first = write_log(stage, "attempt_1.log", "old\n", age_s=20)
    tail = LogTail(lambda: attempt_logs(stage)[-1])
    assert list(tail.poll()) == []
    with first.open("a") as file:
        file.write("one\ntw")
        file.flush()
        assert list(tail.poll()) == ["one"]
        file.write("o\nthree, cut sh")
    os.utime(first, (1e9 - 15, 1e9 - 15))
    second = write_log(stage, "attempt_2.log", "again\nend", age_s=10)

    seen = [(tail.path, line) for line in tail.poll()]

    assert seen == [(first, "two"), (first, "three, cut sh"), (second, "again")]
    assert list(tail.poll(at_end=True)) == ["end"]
    assert list(tail.poll(at_end=True)) == []
