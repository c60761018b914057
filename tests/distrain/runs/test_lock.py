import os
import signal
import subprocess
import sys
import time

import pytest

from distrain.errors import PreflightError
from distrain.runs.lock import acquire

HOLDER = """
import sys, time
from pathlib import Path
from distrain.runs.lock import acquire
acquire(Path(sys.argv[1]), 'mine')
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    path = tmp_path / "stage.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process, path
    process.kill()
    process.wait()


def test_a_living_holder_is_named_with_a_remedy(holder):
    _, path = holder
    with pytest.raises(PreflightError, match=r"another living process.*distrain stop mine"):
        acquire(path, "mine", patience_s=0.2)


def test_a_killed_holder_leaves_no_lock_although_its_file_stays(holder):
    process, path = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    os.close(acquire(path, "mine", patience_s=0.0))


def test_the_lock_is_waited_for(holder):
    process, path = holder
    start = time.monotonic()
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
    os.close(acquire(path, "mine", patience_s=20))
    assert time.monotonic() - start >= 0.4
