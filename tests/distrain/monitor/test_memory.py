import subprocess
import sys

import torch

from distrain.monitor.memory import peak_memory_gib


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
