import subprocess
import sys

import torch

from distrain.monitor.memory import available_bytes, peak_memory_gib, room_in_groups


def test_peak_sees_memory_that_was_freed_again():
    before = peak_memory_gib(torch.device("cpu"))
    block = torch.ones(64 * 2**20)  # 256 MiB, touched
    del block
    assert peak_memory_gib(torch.device("cpu")) >= max(before, 0.25)


def test_child_does_not_report_the_peak_of_its_parent():
    ballast = torch.ones(256 * 2**20 // 4)
    script = "from distrain.monitor.memory import _peak_resident_bytes as b; print(b())"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    parent = peak_memory_gib(torch.device("cpu")) * 2**30
    assert 0 < int(out.stdout) < parent
    del ballast


def test_the_memory_that_is_free_is_known_here():
    available = available_bytes()
    assert available is None or 2**20 < available < 2**50


def test_the_limit_of_a_job_counts(tmp_path):
    job, step = tmp_path / "job", tmp_path / "job" / "step"
    step.mkdir(parents=True)
    (step / "memory.max").write_text("max\n")
    (step / "memory.stat").write_text("anon 10\nfile 500\n")
    (job / "memory.max").write_text("1000\n")
    (job / "memory.stat").write_text("anon 300\nfile 600\nanon_thp 7\n")
    assert room_in_groups("0::/job/step\n", tmp_path) == [700]
    assert room_in_groups("0::/\n", tmp_path) == []
    assert room_in_groups("5:memory:/job\n", tmp_path) == []  # version 1
