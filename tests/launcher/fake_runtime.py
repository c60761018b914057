"""Stands in for the interpreter of a stage: obeys ``behaviour.json`` beside the run folder.

It takes the command line that ``launcher.plan.stage_argv`` makes and leaves the records that the
runtime leaves, without torch; what is tested is how the launcher handles processes.
"""

import json
import os
import sys
import time
from pathlib import Path

from distrain.runs.folder import RunFolder
from distrain.runs.records import append_event, append_record, read_json, utc_now, write_json


def main() -> None:
    at = sys.argv.index("stage")
    run, name = RunFolder(Path(sys.argv[at + 1])), sys.argv[at + 2]
    folder = run.stage(name)
    before = read_json(folder.state) or {"attempt": 0, "step": 0}
    attempt, step = before["attempt"] + 1, before["step"]
    behaviours = json.loads((run.root.parent / "behaviour.json").read_text())[name]
    behaviour = behaviours[min(attempt, len(behaviours)) - 1]
    if behaviour == "die-at-once":
        os._exit(9)

    def state(word: str, step: int) -> None:
        record = {"state": word, "attempt": attempt, "step": step, "requeue": word == "stopped"}
        write_json(folder.state, {**record, "time": utc_now()})

    state("running", step)
    append_event(run.events, "started", name, attempt=attempt, pid=os.getpid())
    if behaviour == "wait":
        while not (run.yield_.exists() or run.stop.exists()):
            time.sleep(0.02)
        time.sleep(1)  # saving; the launcher looks twice a second
        state("stopped", step + 1)
    elif behaviour == "hang":
        time.sleep(600)
    elif behaviour == "refuse":
        write_json(folder.error, {"exit_code": 4, "message": "corpus: found nothing"})
        sys.exit(4)
    elif behaviour in ("crash", "commit-then-crash"):
        state("running", step + (behaviour != "crash"))
        sys.exit("the reason is here")
    elif behaviour == "metrics":
        for number in range(1, 26):
            append_record(folder.metrics, step_record(number, attempt))
        append_event(run.events, "checkpoint", name, attempt=attempt, step=25)
        state("done", 25)
    else:
        state("done", step)


def step_record(number: int, attempt: int) -> dict:
    return {
        "time": utc_now(),
        "attempt": attempt,
        "train/global_step": number,
        "train/loss": 8 - number / 10,
        "train/learning_rate": 1e-3,
        "train/grad_norm": 0.5,
        "train/tokens_seen": number * 32,
        "perf/step_time_s": 0.01,
        "perf/tokens_per_sec": 3200.0,
        "perf/mfu": 0.02,
        "memory/max_gib": 0.5,
    }


if __name__ == "__main__":
    main()
