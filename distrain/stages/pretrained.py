"""The user's own model that a line of stages begins with: it must stay what it was."""

import time
from pathlib import Path

from distrain.checkpoint.layout import committed
from distrain.config.huggingface import (
    CONFIG_FILE,
    NAMING_FILES,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    weight_files,
)
from distrain.config.recipe import folder_of
from distrain.errors import PreflightError
from distrain.models.gguf.convert import pretrained_folder
from distrain.runs.records import read_json, write_json
from distrain.runs.sums import digest_of
from distrain.stages.context import StageContext

TICK_NS = 2 * 10**9
"""No file system's clock is coarser."""


def require_same_folder(context: StageContext) -> None:
    """Write down what a model's files hold as its line begins, and compare them ever after.

    A stage that goes on, or that is built on one that did, would mix two models without a word.

    Raises:
        PreflightError: A file is another one, or gone.
    """
    root = context.first
    written = folder_of(context.recipe.stages[root])
    if written is None:
        return
    folder = pretrained_folder(written, context.run.models)
    first = context.run.stage(root)
    recorded = read_json(first.pretrained)
    is_first = context.name == root and not committed(first.checkpoints)
    if recorded is None and not is_first:
        return
    recorded = recorded or {}
    found = {path.name: _known(path, recorded.get(path.name)) for path in _files(folder)}
    # Of an older version: a digest for each name, and none of what describes the tokenizer.
    is_older = any(isinstance(entry, str) for entry in recorded.values())
    names = recorded.keys() | (set() if is_older else found.keys())
    changed = sorted(name for name in names if not _same(recorded.get(name), found.get(name)))
    if changed and not is_first:
        raise PreflightError(
            str(folder),
            f"another {', '.join(changed)} than when '{root}' began",
            "the model that it was trained from",
            "Put that model back, or train from this one under another name (name=...).",
        )
    if found != recorded:
        write_json(first.pretrained, found)


def _files(folder: Path) -> list[Path]:
    """List the files of a model's folder that training reads."""
    describing = (CONFIG_FILE, TOKENIZER_FILE, *NAMING_FILES, TEMPLATE_FILE)
    files = [*(folder / name for name in dict.fromkeys(describing)), *weight_files(folder)]
    return [file for file in files if file.is_file()]


def _known(file: Path, recorded: object) -> dict[str, object]:
    """Return a file's SHA-256 and what the file system says of it; digest it only if that moved.

    Weights take minutes to read, and each start asks. Size and time of modification alone would
    miss another model of the same sizes that was unpacked or copied with its times kept; the time
    of the last change of the entry (ctime) cannot be set back, so whoever writes or replaces a file
    moves it. A file that changed so shortly before it was read that the clock's next tick might be
    the same one is digested again (as git does with its index).
    """
    before, started = _stat(file), time.time_ns()
    if isinstance(recorded, dict) and recorded.get("stat") == before:
        return recorded
    entry: dict[str, object] = {"sha256": digest_of(file)}
    if before == _stat(file) and started - before[-1] > TICK_NS:
        entry["stat"] = before
    return entry


def _stat(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _same(recorded: object, found: object) -> bool:
    return _digest(recorded) == _digest(found)


def _digest(entry: object) -> object:
    return entry.get("sha256") if isinstance(entry, dict) else entry
