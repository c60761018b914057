from launcher.backends.stacks import line_of_loop, line_of_save, read_stacks

BY_PYTHON = """\
Thread 0x00007f1 (most recent call first):
  File "/repo/distrain/checkpoint/writing.py", line 40 in write_checkpoint
  File "/repo/distrain/checkpoint/manager.py", line 300 in _write
  File "/usr/lib/python3.11/threading.py", line 982 in run

Thread 0x00007f2 (most recent call first):
  File "/home/u/mine.py", line 9 in spin
  File "/repo/distrain/data/samples/loader.py", line 210 in _make
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007f3 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/repo/distrain/data/samples/loader.py", line 260 in batches
  File "/repo/distrain/train/loop.py", line 60 in train
"""

BY_PY_SPY = """\
Process 7: python -m distrain stage run train
Python v3.11.7 (/usr/bin/python3.11)

Thread 7 (idle): "MainThread"
    wait (threading.py:320)
    train_step (/repo/distrain/train/loop.py:80)
Thread 0x7F1 (active+gil): "save-5"
    sleep (/v/lib/python3.11/site-packages/x.py:3)
    _write (/repo/distrain/checkpoint/manager.py:300)
"""


def test_the_line_is_that_of_the_thread_that_is_waited_for():
    stacks = read_stacks(BY_PYTHON)
    assert len(stacks) == 3
    assert line_of_loop(stacks, "data") == "/home/u/mine.py:9 in spin"
    assert line_of_loop(stacks, "update") == "/repo/distrain/data/samples/loader.py:260 in batches"
    assert line_of_save(stacks) == "/repo/distrain/checkpoint/writing.py:40 in write_checkpoint"


def test_py_spy_is_read_too_and_libraries_are_passed_over():
    stacks = read_stacks(BY_PY_SPY)
    assert [stack.name for stack in stacks] == ["save-5", "MainThread"]
    assert line_of_save(stacks) == "/repo/distrain/checkpoint/manager.py:300 in _write"
    # py-spy writes files of Python itself without their folders.
    assert line_of_loop(stacks, "update") == "/repo/distrain/train/loop.py:80 in train_step"


def test_nothing_is_said_of_no_stacks():
    assert read_stacks("") == []
    assert (line_of_loop([], "data"), line_of_save([])) == ("", "")
