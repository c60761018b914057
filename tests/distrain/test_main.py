import subprocess
import sys

SCRIPT = """
import resource
from distrain.__main__ import allow_many_files
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 3000))
allow_many_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_process_may_open_as_many_files_as_the_system_lets_it():
    limits = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert limits.stdout.split() == ["(3000,", "3000)"]
