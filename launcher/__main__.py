"""``python -m launcher``: the ``distrain`` command where no script is installed."""

import sys

from launcher.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
