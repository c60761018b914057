"""The whole quickstart: first loss line, total time, memory of all its processes, learning.

Runs ``distrain run quickstart`` in a folder of its own and looks on.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.measuring import GIB, machine_line, pss_bytes, table
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import read_json


def watch(command: subprocess.Popen[bytes], run: RunFolder) -> tuple[float, float, int]:
    """Wait for the end; returns seconds to the first step record, seconds in all, peak PSS."""
    started = time.monotonic()
    first, peak = float("nan"), 0
    metrics = run.stage("pretrain").metrics
    root = psutil.Process(command.pid)
    while command.poll() is None:
        if first != first and any("train/loss" in record for record in read_records(metrics)):
            first = time.monotonic() - started
        peak = max(peak, pss_bytes(root))
        time.sleep(0.25)
    return first, time.monotonic() - started, peak


def learning_rows(run: RunFolder) -> list[list[str]]:
    """Compare what was learned with the figures to beat."""
    pretrain = read_json(run.stage("pretrain").result) or {}
    sft = read_json(run.stage("sft").result) or {}
    evaluate = read_json(run.stage("evaluate").result) or {}
    losses = [
        record["eval/loss"]
        for record in read_records(run.stage("pretrain").metrics)
        if "eval/loss" in record
    ]
    half = losses[: len(losses) // 2 + 1]
    falls = all(later < earlier for earlier, later in pairwise(half))
    floor = min(pretrain["unigram_entropy"], pretrain["unigram_cross_entropy"])
    gain = sft["eval_loss_base"] - sft["eval_loss"]
    return [
        ["validations", str(len(losses))],
        ["validation loss falls at each of the first half", str(falls)],
        ["validation loss at the end", f"{pretrain['eval_loss']:.3f} nats"],
        ["lower unigram figure", f"{floor:.3f} nats"],
        ["under the unigram", f"{floor - pretrain['eval_loss']:.3f} nats"],
        [
            "held-out answers, base -> tuned",
            f"{sft['eval_loss_base']:.3f} -> {sft['eval_loss']:.3f}",
        ],
        ["gain", f"{gain:.3f} nats"],
        [
            "the same, shuffled prompts",
            f"{sft['eval_loss_base_shuffled_prompts']:.3f} -> "
            f"{sft['eval_loss_shuffled_prompts']:.3f}",
        ],
        ["test split", json.dumps(evaluate)],
    ]


def main() -> None:
    """Run it and print the table."""
    runs = Path(tempfile.mkdtemp(prefix="quickstart-bench-"))
    environment = {**os.environ, "DISTRAIN_RUNS_DIR": str(runs)}
    command = subprocess.Popen(
        [sys.executable, "-m", "launcher", "run", "quickstart", *sys.argv[1:]],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    first, total, peak = watch(command, RunFolder(runs / "quickstart"))
    if command.returncode != 0:
        raise SystemExit(f"the quickstart ended with exit code {command.returncode}")
    rows = [
        ["first loss record", f"{first:.1f} s"],
        ["the whole quickstart", f"{total:.0f} s"],
        ["peak PSS, all processes", f"{peak / GIB:.2f} GiB"],
        *learning_rows(RunFolder(runs / "quickstart")),
    ]
    sys.stdout.write(f"{machine_line()}\n\n{table(('what', 'figure'), rows)}\n\nrun: {runs}\n")


if __name__ == "__main__":
    main()
