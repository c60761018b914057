"""Keep a run folder of this version for ``tests/runs/test_older_runs.py``; once, at a release.

    python -m tests.runs.older.make /home/user/older

The recipe runs twice below that folder, which must not exist yet. One run is killed in the middle
of pretraining and kept as it lay there, in ``tests/runs/older/<version>/runs``; the losses of the
other one, which nothing disturbs, become ``expected.json`` beside it. A checkpoint notes the path
it was written to, so the folder's name should tell nothing about a machine. Both are committed and
never changed again: when a version cannot go on with an older one, that folder is removed, and the
changelog says so.

``pretrain.sbatch`` beside them is the job that `distrain submit` of that version wrote for such a
run in ``/runs/kept``: one node, two processes, ``/opt/venv/bin/python``, no site file.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from distrain import __version__
from tests.runs.older.figures import figures
from tests.tiny import command, environment

HERE = Path(__file__).parent
SAVED = 10
KILLED = range(12, 15)
"""Steps of which some are made but no checkpoint holds them."""
ATTEMPTS = 10
PACKAGES = ("distrain", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")


def main(folder: Path) -> None:
    """Make the folder of this version."""
    kept = HERE / __version__
    kept.mkdir()
    folder.mkdir(parents=True)
    for name in ("corpus", "recipe.yaml"):
        _copy(HERE / name, folder / name)
    launcher = _start(folder, "whole")
    if launcher.wait() != 0:
        raise RuntimeError("the run did not get through")
    losses = figures(folder / "whole" / "kept")
    for _ in range(ATTEMPTS):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        if _kill_in_time(folder):
            break
    else:
        raise RuntimeError("pretraining was always ahead of the blow")
    _neutralise(folder / "runs" / "kept")
    _copy(folder / "runs", kept / "runs")
    (kept / "expected.json").write_text(json.dumps(losses, indent=1) + "\n")


def _start(folder: Path, runs: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command("run", "recipe.yaml"),
        cwd=folder,  # the paths of the recipe count from here
        env=environment(folder / runs) | {"PYTHONPATH": str(HERE.parents[2])},
    )


def _kill_in_time(folder: Path) -> bool:
    """Run until some steps lie behind the checkpoint, kill, and tell whether that is what is left.

    The launcher's processes end with it.
    """
    launcher = _start(folder, "runs")
    pretrain = folder / "runs" / "kept" / "pretrain"
    while launcher.poll() is None and _steps(pretrain) < KILLED.start:
        time.sleep(0.002)
    launcher.kill()
    launcher.wait()
    time.sleep(5)
    left = [path.name for path in (pretrain / "checkpoints").iterdir()]
    return left == [f"step_{SAVED:06d}"] and _steps(pretrain) in KILLED


def _steps(pretrain: Path) -> int:
    metrics = pretrain / "metrics.jsonl"
    return metrics.read_text().count('"train/loss"') if metrics.exists() else 0


def _neutralise(run: Path) -> None:
    """Take out of the record of the environment what is of one machine; nothing reads it."""
    path = run / "environment.json"
    record = json.loads(path.read_text())
    packages = {name: record["packages"][name] for name in PACKAGES}
    changed = {
        "command": ["distrain", "run", "recipe.yaml"],
        "executable": "python",
        "platform": "Linux",
        "hostname": "host",
        "git": None,
        "packages": packages,
    }
    path.write_text(json.dumps(record | changed, indent=1) + "\n")


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder, but no compiled Python."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
