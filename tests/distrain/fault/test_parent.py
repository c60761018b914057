import os
import signal
import subprocess
import sys

import psutil

from distrain.fault.parent import AGENT_PID

CHILD = """
import sys, time
from distrain.fault.parent import die_with_parent
die_with_parent()
print("ready", flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''{CHILD}'''])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_ends_with_the_process_that_started_it():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = {parent.stdout.readline().strip() for _ in range(2)}
    child = psutil.Process(int((lines - {"ready"}).pop()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=5)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_a_worker_whose_torchrun_ended_while_it_was_importing_ends_too():
    finished = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, AGENT_PID: "1"},  # started by another process than the one it has now
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stdout == ""


def test_the_agent_tells_its_workers_its_process_id(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(
        f"import os\nassert os.environ['{AGENT_PID}'] == str(os.getppid())\n"
        "print('knows its parent', flush=True)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-m", "distrain.agent", "--standalone", "--nproc-per-node=1", str(worker)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "knows its parent" in finished.stdout
