"""``python -m distrain reopen RUN STAGE``: a done stage whose product is damaged is made again.

The stage itself makes it, as it would go on after any interruption: a training stage from its
newest whole checkpoint. So the product is the same, bit for bit, if machine and packages are.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from distrain.checkpoint.choosing import newest_good, put_aside
from distrain.checkpoint.layout import Name, committed
from distrain.config.reading.load import read_resolved
from distrain.errors import DistrainError, ExitCode
from distrain.parallel.collectives import HostGroup
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.lock import ORPHAN_PATIENCE_S, acquire
from distrain.runs.products import Product, read_product
from distrain.runs.records import append_event, is_done, read_state, utc_now, write_json
from distrain.runs.sums import find_damage
from distrain.stages.products import look_for


def run_command(run: RunFolder, name: str) -> int:
    """Write one JSON line for the launcher: what to tell the user, or the error."""
    try:
        kind = read_resolved(run.resolved).stages[name].kind
        answer = {"text": reopen(run, name, kind), "exit_code": int(ExitCode.DONE)}
    except DistrainError as error:
        answer = {"text": str(error), "exit_code": int(error.exit_code)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return ExitCode.DONE


def reopen(run: RunFolder, name: str, kind: str, patience_s: float = ORPHAN_PATIENCE_S) -> str:
    """Look at what a stage has made; if it is not whole, the stage is done no longer.

    Args:
        run: Held by the caller.
        name: The stage's.
        kind: ``pretrain``, ``sft`` or ``export``.
        patience_s: Wait so long for processes of a killed launcher.

    Returns:
        What was found and what follows from it, in words.

    Raises:
        PreflightError: The stage runs now.
        CheckpointError: A checkpoint cannot be judged here.
    """
    folder = run.stage(name)
    lock = acquire(folder.lock, run.root.name, patience_s)
    try:
        if not is_done(run, name):
            return f"{name}: not done, goes on"
        reopened = _reopen_export(folder) if kind == "export" else _reopen_training(run, folder)
        if reopened is None:
            return f"{name}: what it made is whole and stays"
        append_event(run.events, "reopened", name, step=reopened.step, reason=reopened.reason)
        state = read_state(folder)
        assert state is not None, "a stage that is done has a state"
        work_left = {"state": "stopped", "step": reopened.step, "requeue": True, "time": utc_now()}
        # Last: until then, the same command does all of this again.
        write_json(folder.state, {**state, **work_left})
        return f"{name}: {reopened.reason}; made again{reopened.how}"
    finally:
        os.close(lock)


@dataclass(frozen=True)
class _Reopened:
    """Why a stage is done no longer, and from where it goes on."""

    reason: str
    how: str = ""
    step: int = 0


def _reopen_export(folder: StageFolder) -> _Reopened | None:
    model = folder.huggingface
    if not model.is_dir():
        return _Reopened(f"{model.name} is gone")
    for place in (model, *sorted(path for path in model.iterdir() if path.is_dir())):
        damage = find_damage(place)
        if damage is not None:
            return _Reopened(f"{place.relative_to(folder.path)}: {damage}")
    return None


def _reopen_training(run: RunFolder, folder: StageFolder) -> _Reopened | None:
    product = read_product(folder)
    if product is None:
        reason = f"{folder.result.name} names no checkpoint"
    else:
        found = look_for(folder, product, HostGroup())
        if isinstance(found, Path):
            return None
        reason = found
        _put_aside(run, folder, product, reason)
    newest = newest_good(folder.checkpoints)
    name = Name.parse(newest.name) if newest is not None else None
    if name is None:
        return _Reopened(reason, " from step 0, for no checkpoint is whole")
    return _Reopened(reason, f" from step {name.step}", name.step)


def _put_aside(run: RunFolder, folder: StageFolder, product: Product, reason: str) -> None:
    """Move away what must not be taken for the product, also if it is whole but another one."""
    for name in committed(folder.checkpoints):
        if name.step >= product.step:
            put_aside(folder.checkpoints / str(name), folder.quarantine)
            append_event(
                run.events,
                "quarantined",
                folder.name,
                step=name.step,
                checkpoint=str(name),
                reason=reason,
            )
