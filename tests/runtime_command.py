"""Makes a command that takes the place of the interpreter of a stage, and shadows no package.

Only the runtime is replaced: what starts it, fork server and supervisors, is the real thing.
"""

import shlex
import sys
from pathlib import Path

SERVER = Path(__file__).with_name("scripted_ranks.py")
SCRIPT = """\
#!/bin/sh
# torchrun starts its workers by this name, too.
PYTHON_EXEC={command}
export PYTHON_EXEC
[ "$1" = -u ] && shift
case "$1 $2" in
  "-m distrain") shift 2; exec {python} {runtime} "$@" ;;
  "-m distrain.fork_server") shift 2; exec {python} {server} {runtime} "$@" ;;
  "-m distrain.agent") shift 2; exec {python} -m torch.distributed.run "$@" ;;
esac
exec {python} "$@"
"""


def runtime_command(folder: Path, runtime: Path) -> str:
    """Write the command.

    Args:
        folder: Where; made if it is not there.
        runtime: Script that is given what ``python -m distrain`` would be: ``stage RUN STAGE``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / "python-of-the-test"
    python, script = shlex.quote(sys.executable), shlex.quote(str(runtime))
    text = SCRIPT.format(
        command=shlex.quote(str(command)),
        python=python,
        runtime=script,
        server=shlex.quote(str(SERVER)),
    )
    command.write_text(text)
    command.chmod(0o755)
    return str(command)
