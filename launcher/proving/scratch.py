"""Scratch copies of a run folder, from which stages go on while the run itself stays as it is."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from distrain.runs.folder import STEP_PREFIX, RunFolder, StageFolder
from distrain.runs.records import read_json, utc_now, write_json

WHOLE_FILES = frozenset({".bin", ".idx", ".safetensors"})
"""Endings of files that are never written to once they have their names."""


def copy_run(run: RunFolder, root: Path, stages: Iterable[str]) -> RunFolder:
    """Copy a run with some of its stages, as they are; every other stage begins anew there.

    Checkpoints, shards and weights are hard links where the file system allows it, records are
    copies: whatever runs in the copy changes nothing of the run. What belongs to processes (locks,
    wishes, orders, sockets, jobs of a scheduler, W&B's run) is not taken along.

    Args:
        run: Where nothing runs now.
        root: Of the copy; made here. Its name is that of the copy.
        stages: Which of them.

    Raises:
        FileExistsError: ``root`` is there already.
    """
    copy = RunFolder(root)
    root.mkdir(parents=True)
    for path in (run.recipe, run.resolved, run.environment, run.events):
        if path.exists():
            shutil.copy2(path, root / path.name)
    if run.models.is_dir():
        _copy_files(run.models, copy.models, frozenset(), all_whole=True)
    for name in stages:
        if run.stage(name).path.is_dir():
            _copy_stage(run.stage(name), copy.stage(name))
    return copy


def return_to(folder: StageFolder, step: int) -> None:
    """Take a copied stage back to one of its checkpoints: the next start goes on from there.

    The records of later steps stay until then: a resume cuts them off, after it has compared.

    Raises:
        FileNotFoundError: No checkpoint of that step is there.
    """
    found = [(number, path) for number, path in checkpoints_of(folder) if number <= step]
    if not found or found[-1][0] != step:
        raise FileNotFoundError(f"{folder.checkpoints}: no checkpoint of step {step}")
    for number, path in checkpoints_of(folder):
        if number > step:
            shutil.rmtree(path)
    folder.result.unlink(missing_ok=True)
    folder.error.unlink(missing_ok=True)
    state = read_json(folder.state) or {"attempt": 1}
    left = {"state": "stopped", "step": step, "requeue": False, "time": utc_now()}
    write_json(folder.state, {**state, **left})


def checkpoints_of(folder: StageFolder) -> list[tuple[int, Path]]:
    """List the committed checkpoints of a stage with their steps, oldest first."""
    if not folder.checkpoints.is_dir():
        return []
    found = []
    for path in folder.checkpoints.glob(f"{STEP_PREFIX}*"):
        # A second save of a step is ``step_000100.1``.
        step, _, copy = path.name.removeprefix(STEP_PREFIX).partition(".")
        if step.isdigit() and path.is_dir():
            found.append((int(step), int(copy or 0), path))
    return [(step, path) for step, _, path in sorted(found)]


def _copy_stage(folder: StageFolder, target: StageFolder) -> None:
    of_processes = (
        *(folder.lock, folder.logs, folder.sink_run_id, folder.quarantine, folder.incidents),
        folder.meeting("").root,
    )
    _copy_files(folder.path, target.path, frozenset(of_processes))


def _copy_files(
    source: Path, target: Path, left_out: frozenset[Path], *, all_whole: bool = False
) -> None:
    for path in _files_in(source, left_out):
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        is_of_checkpoint = path.parent.name.startswith(STEP_PREFIX)
        if all_whole or is_of_checkpoint or path.suffix in WHOLE_FILES:
            _link(path, to)
        else:
            shutil.copy2(path, to)


def _files_in(source: Path, left_out: frozenset[Path]) -> Iterator[Path]:
    """Yield the files of a folder, but for unfinished ones, which have hidden names."""
    for name, folders, files in os.walk(source, followlinks=True):
        here = Path(name)
        folders[:] = [f for f in folders if not f.startswith(".") and here / f not in left_out]
        is_checkpoint = here.name.startswith(STEP_PREFIX)  # whose index has a hidden name
        for file in files:
            path = here / file
            if path in left_out or (file.startswith(".") and not is_checkpoint):
                continue
            if stat.S_ISREG(path.stat().st_mode):
                yield path


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path.resolve(), to)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(path, to)


def make_scratch(runs: Path, name: str) -> Path:
    """Make a folder for copies and twins, which whoever asked for it removes.

    Args:
        runs: Folder of runs. It lies there or, if there is none yet, beside it: only within a file
            system are checkpoints linked and not copied, and the system's own may be memory.
        name: What it is for.
    """
    place = runs if runs.is_dir() else runs.parent
    try:
        return Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place))
    except OSError:
        return Path(tempfile.mkdtemp(prefix=f"distrain-{name}-"))
