"""``python -m distrain reopen RUN STAGE``: a done stage whose checkpoint is damaged is made again.

The stage itself makes it, as it would go on after any interruption: from its newest whole
checkpoint. So the product is the same, bit for bit, if machine and packages are.
"""

import json
import os
import sys
from pathlib import Path

from distrain.checkpoint.choosing import newest_good, put_aside
from distrain.checkpoint.layout import Name, committed
from distrain.errors import DistrainError, ExitCode
from distrain.parallel.collectives import HostGroup
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.lock import ORPHAN_PATIENCE_S, acquire
from distrain.runs.products import Product, read_product
from distrain.runs.records import append_event, is_done, read_state, utc_now, write_json
from distrain.stages.products import look_for


def run_command(run: RunFolder, name: str) -> int:
    """Write one JSON line for the launcher: what to tell the user, or the error."""
    try:
        answer = {"text": reopen(run, name), "exit_code": int(ExitCode.DONE)}
    except DistrainError as error:
        answer = {"text": str(error), "exit_code": int(error.exit_code)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return ExitCode.DONE


def reopen(run: RunFolder, name: str, patience_s: float = ORPHAN_PATIENCE_S) -> str:
    """Look at the product of a training stage; if it is not whole, the stage is done no longer.

    Args:
        run: Held by the caller.
        name: Of a stage of kind ``pretrain`` or ``sft``.
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
        product = read_product(folder)
        if product is None:
            reason = f"{folder.result.name} names no checkpoint"
        else:
            found = look_for(folder, product, HostGroup())
            if isinstance(found, Path):
                return f"{name}: its checkpoint of {product} is whole and stays"
            reason = found
            _put_aside(run, folder, product, reason)
        return f"{name}: {reason}; {_open(run, folder, reason)}"
    finally:
        os.close(lock)


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


def _open(run: RunFolder, folder: StageFolder, reason: str) -> str:
    """Write the state of a stage with work left; says from where it will go on."""
    before = read_state(folder)
    assert before is not None, "a stage that is done has a state"
    newest = newest_good(folder.checkpoints)
    name = Name.parse(newest.name) if newest is not None else None
    step = name.step if name is not None else 0
    append_event(run.events, "reopened", folder.name, step=step, reason=reason)
    state = {**before, "state": "stopped", "step": step, "requeue": True, "time": utc_now()}
    write_json(folder.state, state)  # last: until then, the same command does all of this again
    return f"made again from step {step}" + ("" if newest else ", for no checkpoint is whole")
