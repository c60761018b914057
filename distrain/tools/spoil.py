"""``python -m distrain spoil RUN STAGE WHAT``: what ``distrain prove`` must notice.

Changes the newest checkpoint of a scratch copy, and writes its commit record anew, so that every
file is whole: only what a resume compares can tell. With ``-claimed`` the digests are those of what
was changed, so that only the steps that follow can.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from distrain.checkpoint.commit import digest_file, read_commit, read_extra, write_commit
from distrain.checkpoint.content import PRODUCT_PREFIXES
from distrain.checkpoint.dcp import read_whole
from distrain.checkpoint.layout import COMMIT, EXTRA, committed
from distrain.checkpoint.writing import write_checkpoint
from distrain.errors import CheckpointError, ExitCode, PreflightError
from distrain.parallel.collectives import HostGroup
from distrain.runs.certificates import NEXT_SAMPLES
from distrain.runs.folder import SCRATCH_MARK, RunFolder
from distrain.runs.records import json_text


def run_command(run: RunFolder, stage: str, what: str) -> int:
    """Change the newest checkpoint of a stage.

    Raises:
        PreflightError: The run is no scratch copy.
        CheckpointError: There is nothing in it that could be changed so.
    """
    if not (run.root.parent / SCRATCH_MARK).exists():
        raise PreflightError(
            str(run.root),
            "a run that is no scratch copy",
            f"one beside the file {SCRATCH_MARK}",
            "Leave this to `distrain prove`.",
        )
    folder = run.stage(stage).checkpoints
    SPOILS[what](folder / str(committed(folder)[-1]))
    return ExitCode.DONE


def spoil_moment(checkpoint: Path) -> None:
    """Flip the lowest bit of one element that the optimizer keeps."""

    def flip(tensor: torch.Tensor) -> None:
        tensor.view(-1)[:1].view(torch.uint8)[0] ^= 1

    _write_anew(checkpoint, flip, claimed=False)


def spoil_moment_claimed(checkpoint: Path) -> None:
    """Turn round the rows of the largest tensor that the optimizer keeps."""
    _write_anew(checkpoint, lambda tensor: tensor.copy_(tensor.flip(0)), claimed=True)


def _write_anew(
    checkpoint: Path, change: Callable[[torch.Tensor], object], *, claimed: bool
) -> None:
    before, extra = read_commit(checkpoint), read_extra(checkpoint)
    state = read_whole(checkpoint, ("",))
    kept = {name: entry for name, entry in state.items() if not name.startswith(PRODUCT_PREFIXES)}
    if not kept:
        raise CheckpointError(
            str(checkpoint),
            "an optimizer that keeps nothing",
            "moments",
            "There is nothing to break.",
        )
    largest = max(kept, key=lambda name: kept[name].boxes[0].tensor.numel())
    change(kept[largest].boxes[0].tensor)
    # The name is taken, so this one gets the next; hard links of the old one stay what they are.
    written = write_checkpoint(checkpoint.parent, before.step, state, extra, HostGroup())
    made = checkpoint.parent / str(written.name)
    if not claimed:
        commit = replace(read_commit(made), content=before.content)
        (made / COMMIT).unlink()
        write_commit(made, commit)
    shutil.rmtree(checkpoint)
    shutil.move(made, checkpoint)


def spoil_samples(checkpoint: Path) -> None:
    """Read on one sample further than the checkpoint's run would."""
    _change_extra(checkpoint, {})


def spoil_samples_claimed(checkpoint: Path) -> None:
    """The same, with no digest of the samples that come next, as older versions saved it."""
    _change_extra(checkpoint, {NEXT_SAMPLES: None})


def _change_extra(checkpoint: Path, others: Mapping[str, object]) -> None:
    extra = read_extra(checkpoint)
    for segment in extra["data"]["schedule"]:
        segment["first_sample"] += 1
    path, commit = checkpoint / EXTRA, read_commit(checkpoint)
    # Unlinked first: both files are hard links to those of the run itself.
    path.unlink()
    (checkpoint / COMMIT).unlink()
    path.write_text(json_text({**extra, **others}))
    write_commit(checkpoint, replace(commit, files={**commit.files, EXTRA: digest_file(path)}))


SPOILS: Mapping[str, Callable[[Path], None]] = {
    "moment": spoil_moment,
    "moment-claimed": spoil_moment_claimed,
    "samples": spoil_samples,
    "samples-claimed": spoil_samples_claimed,
}
