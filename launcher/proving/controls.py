"""What is broken on purpose, each in a copy of its own: a proof that cannot fail proves nothing."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.json_lines import read_records
from distrain.runs.records import STEP, is_validation, read_json
from distrain.runs.skips import Skip, append_skip
from launcher.proving.scratch import checkpoints_of
from launcher.proving.stretch import Stretch

CONTROLS: Mapping[str, str] = {
    "moment": "one bit of a moment, under the digest of before",
    "moment-claimed": "moments in another order, under a digest of their own",
    "samples": "samples shifted by one, under the digest of before",
    "samples-claimed": "samples shifted by one, without a digest",
    "skips": "another file of steps that are left out",
}
"""By name, in words."""


def break_copy(copy: RunFolder, stretch: Stretch, name: str, twin: RunFolder) -> None:
    """Break a copy, which is to be noticed once it goes on.

    Args:
        copy: Returned to the checkpoint of the first step.
        stretch: What will be trained.
        name: One of ``CONTROLS``.
        twin: Says which samples the steps of the stretch read.

    Raises:
        PreflightError: The runtime could not do it.
    """
    if name == "skips":
        break_skips(copy.stage(stretch.stage), stretch, twin.stage(stretch.stage))
        return
    command = [sys.executable, "-m", "distrain", "spoil", str(copy.root), stretch.stage, name]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise PreflightError(
            f"the control '{name}'",
            f"exit code {done.returncode}: {done.stderr.strip()[-400:]}",
            "a copy that is broken as was meant",
            "Without a control that fails there is no proof: report it.",
        )


def break_skips(folder: StageFolder, stretch: Stretch, twin: StageFolder) -> None:
    """Take away a decision that the checkpoint was made with or, where there is none, add one."""
    known = known_skips(checkpoints_of(folder)[-1][1])
    if known:
        lines = folder.skips.read_bytes().splitlines(keepends=True)
        folder.skips.write_bytes(b"".join(lines[: known - 1]))
        return
    step = stretch.start + 1
    record = next(
        record
        for record in read_records(twin.metrics)
        if record[STEP] == step and not is_validation(record)
    )
    first = int(record["data/first_sample"])
    end = first + int(record["data/num_samples"])
    append_skip(folder, Skip(step, step, first, end, "loss", step, stretch.start))


def known_skips(checkpoint: Path) -> int:
    """Return how many decisions a checkpoint was made with."""
    return int(extra_of(checkpoint).get("skips", {"count": 0})["count"])


def extra_of(checkpoint: Path) -> dict[str, Any]:
    """Read what was saved with a checkpoint besides tensors."""
    return read_json(checkpoint / "extra.json") or {}


def content_of(checkpoint: Path) -> dict[str, str] | None:
    """Read the digests of a checkpoint's tensors."""
    record = json.loads((checkpoint / "commit.json").read_text())
    content: dict[str, str] | None = record["commit"].get("content")
    return content
