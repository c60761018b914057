"""torchrun, with its process id told to the workers: ``python -m distrain.agent ARGUMENTS``.

A worker that is still importing when its torchrun is killed finds itself with another parent, and
cannot tell from that alone. With the id it can, and ends (``distrain.fault.parent``).
"""

import os

from torch.distributed.run import main

from distrain.fault.parent import AGENT_PID

if __name__ == "__main__":
    os.environ[AGENT_PID] = str(os.getpid())
    main()
