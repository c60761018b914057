"""Stands in for the runtime: each process says where it is and which GPUs it sees, and ends.

It takes the place of ``python -m distrain`` for the jobs of ``test_gpus.py``.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    run, stage, *flags = sys.argv[2:]
    rank = os.environ.get("RANK", "0")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    record = {
        "node": os.environ["SLURMD_NODENAME"],
        "gpus": len(gpus.split(",")) if gpus else 0,
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "0")
    ranks = Path(run) / "ranks"
    ranks.mkdir(parents=True, exist_ok=True)
    (ranks / f"{task}.{rank}.json").write_text(json.dumps(record))
    if rank == "0" and not flags:
        (Path(run) / stage / "state.json").write_text('{"state": "done", "attempt": 1}')


if __name__ == "__main__":
    main()
