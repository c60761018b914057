"""What the thresholds do is measured in processes of their own, which they cannot leave."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from distrain.models.weights.freed_memory import LARGE_BYTES
from distrain.parallel import allocator
from distrain.parallel.allocator import (
    M_MMAP_THRESHOLD,
    NEVER,
    OLDER_MAXIMUM,
    USERS_OWN,
    keep_freed_memory,
    return_large_buffers,
)

CPU = torch.device("cpu")
IS_GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource, torch
from distrain.parallel.allocator import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(1 << 24).fill_(1.0)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for choice in ("system", "auto"):
    keep_freed_memory(choice, torch.device("cpu"))
    for _ in range(3):
        faults()  # the heap grows until the buffer fits
    print(faults())
"""


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch):
    for name in USERS_OWN:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def calls(monkeypatch):
    """Calls of ``mallopt`` that are noted and not made; the largest value that it takes."""
    noted = SimpleNamespace(values=[], limit=NEVER)

    def mallopt(number, value):
        noted.values.append((number, value))
        return int(value <= noted.limit or number == allocator.M_TRIM_THRESHOLD)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    return noted


@pytest.mark.skipif(not IS_GLIBC, reason="needs glibc")
def test_a_buffer_that_was_freed_is_not_faulted_in_again():
    command = [sys.executable, "-c", FAULTS]
    output = subprocess.run(command, capture_output=True, check=True).stdout
    system, kept = map(int, output.split())
    # What else is allocated may move one of the eight.
    assert kept < system / 4


def test_while_a_model_is_made_large_buffers_are_mapped_alone(calls):
    return_large_buffers("auto", CPU)
    assert calls.values == [(M_MMAP_THRESHOLD, LARGE_BYTES)]


def test_nothing_is_set_where_it_is_not_wanted(calls, monkeypatch):
    return_large_buffers("system", CPU)
    return_large_buffers("auto", torch.device("cuda"))
    assert keep_freed_memory("system", CPU) == (0, 0)
    assert keep_freed_memory("auto", torch.device("cuda")) == (0, 0)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000")
    assert keep_freed_memory("auto", CPU) == (0, 0)
    assert calls.values == []


def test_both_thresholds_are_set(calls, caplog):
    with caplog.at_level("INFO"):
        assert keep_freed_memory("auto", CPU) == (NEVER, NEVER)
    assert caplog.text == ""


def test_an_older_glibc_gets_the_most_it_takes_and_that_is_said(calls, caplog):
    calls.limit = OLDER_MAXIMUM
    with caplog.at_level("INFO"):
        assert keep_freed_memory("auto", CPU) == (OLDER_MAXIMUM, NEVER)
    assert "glibc 2.36 took thresholds of 33554432 bytes for mapping" in caplog.text


def test_another_c_library_is_left_alone_and_that_is_said(monkeypatch, caplog):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with caplog.at_level("INFO"):
        assert keep_freed_memory("auto", CPU) == (0, 0)
    assert "not glibc" in caplog.text
