"""Stands in for the runtime: counts steps instead of training, and keeps the same records.

It takes the place of ``python -m distrain`` for the jobs of these tests, see
``tests.runtime_command``. What a stage shall do comes from ``<stage>.behaviour.json`` in the run
folder; each step leaves a line in ``<stage>.trace``.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

BEHAVIOUR = {
    "steps": 3,
    "step_s": 0.1,
    "save_steps": 1,
    "fail_at": None,  # the process dies at this step of the first attempt
    "always_fail": False,  # ... of every attempt
    "error": False,  # dies with an error that another attempt would meet again
    "deaf": False,  # ignores wishes on the first attempt
    "idle": False,  # makes no step, and waits for a wish
    "lie": False,  # ends with exit code 0 before its work is done
}


def main() -> None:
    run, stage = Path(sys.argv[2]), sys.argv[3]
    if int(os.environ.get("RANK", "0")) != 0:
        wait_for_rank_0(run / stage / "state.json")
        return
    given = run / f"{stage}.behaviour.json"
    behaviour = BEHAVIOUR | (json.loads(given.read_text()) if given.exists() else {})
    count(run, stage, behaviour)


def count(run: Path, stage: str, behaviour: dict[str, Any]) -> None:
    folder = run / stage
    attempt = (read(folder / "state.json") or {"attempt": 0})["attempt"] + 1
    saved = sorted(folder.glob("checkpoints/step_*"))
    step = int(saved[-1].name.removeprefix("step_")) if saved else 0
    write_state(folder, "running", attempt, step, requeue=False)
    while step < behaviour["steps"]:
        deaf = behaviour["deaf"] and attempt == 1
        if not deaf and (wish := wish_of(run)):
            save(folder, step)
            write_state(folder, "stopped", attempt, step, requeue=wish == "yield")
            return
        time.sleep(behaviour["step_s"])
        if behaviour["idle"]:
            continue
        step += 1
        trace(run, stage, attempt, step)
        if step == behaviour["fail_at"] and (attempt == 1 or behaviour["always_fail"]):
            if behaviour["error"]:
                error = {"exit_code": 6, "message": "it would fail again"}
                (folder / "error.json").write_text(json.dumps(error))
            sys.exit(0 if behaviour["lie"] else 1)
        if step % behaviour["save_steps"] == 0:
            save(folder, step)
            write_state(folder, "running", attempt, step, requeue=False)
    write_state(folder, "done", attempt, step, requeue=False)


def wish_of(run: Path) -> str | None:
    for wish in ("stop", "yield"):
        if (run / "control" / wish).exists():
            return wish
    return None


def save(folder: Path, step: int) -> None:
    (folder / "checkpoints" / f"step_{step:06d}").mkdir(parents=True, exist_ok=True)


def trace(run: Path, stage: str, attempt: int, step: int) -> None:
    record = {
        "stage": stage,
        "attempt": attempt,
        "step": step,
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "nodes": os.environ["SLURM_JOB_NODELIST"],
        "world_size": os.environ.get("WORLD_SIZE", "1"),
        "time": time.time(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "setting": os.environ.get("SETTING"),
        "from_setup": os.environ.get("FROM_SETUP"),
    }
    with (run / f"{stage}.trace").open("a") as file:
        file.write(json.dumps(record) + "\n")


def write_state(folder: Path, state: str, attempt: int, step: int, *, requeue: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"state": state, "attempt": attempt, "step": step, "requeue": requeue}
    temporary = folder / ".state"
    temporary.write_text(json.dumps(record, indent=1))
    temporary.replace(folder / "state.json")


def wait_for_rank_0(state: Path) -> None:
    attempt_begins = time.time()
    while True:
        record = read(state)
        fresh = state.exists() and state.stat().st_mtime > attempt_begins - 1
        if record and fresh and record["state"] != "running":
            return
        time.sleep(0.05)


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    main()
