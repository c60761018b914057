"""A fork server as it is, but for what its ranks run: a script instead of the runtime.

    python scripted_ranks.py SCRIPT RUN STAGE --ranks N --socket FD

The script gets what ``python -m distrain`` would: ``stage RUN STAGE``.
"""

import os
import sys

from distrain import fork_server


def run_script(argv: list[str]) -> int:
    os.execv(sys.executable, [sys.executable, script, *argv])


if __name__ == "__main__":
    script = sys.argv.pop(1)
    fork_server.preload = lambda *_: None
    fork_server.run_rank = run_script
    sys.exit(fork_server.main())
