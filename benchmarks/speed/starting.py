"""The start: from nothing to the end of the first step.

A stage is started as the launcher starts it, validates one batch before its first step, and is
stopped when that step's record is there; the plain loop makes one step and ends. Both find all
bytecode compiled, as installed packages are: the first round, which does not count, has done it.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.speed.sizes import SIZES, Size, section_of
from distrain.runs.folder import RunFolder

RECIPE = """\
name: start
stages:
  prepare:
    kind: prepare
    data: {{source: {{kind: files, paths: ["{corpus}"]}}}}
    tokenizer: {{vocab_size: {vocab_size}}}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {model}
    training:
      sequence_length: {length}
      global_batch_size: {batch}
      micro_batch_size: {batch}
      max_steps: 100000
    eval: {{max_batches: 1}}
"""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def start_rows(
    size_name: str, model: str, rounds: int, summary: Callable[[Sequence[float]], str]
) -> list[list[str]]:
    """Return the table's row: a stage over the plain loop."""
    size = SIZES[size_name]
    with tempfile.TemporaryDirectory() as folder:
        prepare(size, model, Path(folder))
        environment = os.environ | {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        cpu: dict[str, list[float]] = {"bare": [], "distrain": []}
        wall: dict[str, list[float]] = {"bare": [], "distrain": []}
        bodies = {
            "bare": lambda: plain(size_name, model, environment),
            "distrain": lambda: stage(Path(folder), environment),
        }
        for number in range(rounds + 1):  # the first warms the caches of files
            for name in random.sample(list(bodies), 2):
                cpu_s, wall_s = bodies[name]()
                if number:
                    cpu[name].append(cpu_s)
                    wall[name].append(wall_s)
    pairs = [
        [one / other for one, other in zip(values["distrain"], values["bare"], strict=True)]
        for values in (cpu, wall)
    ]
    load = f"{os.getloadavg()[0]:.1f}"
    return [[f"start to the first step, {size_name}, {model}", *map(summary, pairs), "", load]]


def prepare(size: Size, model: str, folder: Path) -> None:
    """Run a prepare stage over Python's own library."""
    recipe = folder / "start.yaml"
    recipe.write_text(
        RECIPE.format(
            corpus=Path(os.__file__).parent / "*.py",
            vocab_size=size.vocab_size,
            model=json.dumps(section_of(size, model)),
            length=size.sequence_length,
            batch=size.batch_size,
        )
    )
    code = "import sys; from launcher.commands.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", str(recipe), "--only", "prepare"]
    environment = os.environ | {"DISTRAIN_RUNS_DIR": str(folder)}
    subprocess.run(command, check=True, capture_output=True, env=environment)


def plain(size_name: str, model: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """Start the plain loop, and wait for its first step: CPU time and wall."""
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.speed.plain", size_name, model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None, "it is a pipe"
        cpu = float(process.stdout.readline())
        return cpu, time.monotonic() - began


def stage(folder: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Start the pretrain stage, and end it when it has made a step: CPU time and wall."""
    run = folder / "start"
    metrics = RunFolder(run).stage("pretrain").metrics
    metrics.unlink(missing_ok=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "distrain", "stage", str(run), "pretrain"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    while not metrics.exists() or "train/loss" not in metrics.read_text():
        if process.poll() is not None:
            assert process.stderr is not None, "it is a pipe"
            raise SystemExit(process.stderr.read().decode())
        time.sleep(0.002)
    wall = time.monotonic() - began
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    return (int(fields[11]) + int(fields[12])) * TICK_S, wall
