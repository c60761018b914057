"""The user's own model that a line of stages begins with: it must stay what it was."""

from pathlib import Path

from distrain.checkpoint.layout import committed
from distrain.config.huggingface import CONFIG_FILE, TOKENIZER_FILE, weight_files
from distrain.config.recipe import folder_of
from distrain.errors import PreflightError
from distrain.models.gguf.convert import pretrained_folder
from distrain.runs.records import read_json, write_json
from distrain.runs.sums import digest_of
from distrain.stages.context import StageContext


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
    found, recorded = digests(folder), read_json(first.pretrained)
    is_first = context.name == root and not committed(first.checkpoints)
    if is_first or recorded is None:
        if is_first:
            write_json(first.pretrained, found)
        return
    changed = sorted(
        name for name in recorded.keys() | found.keys() if recorded.get(name) != found.get(name)
    )
    if changed:
        raise PreflightError(
            str(folder),
            f"another {', '.join(changed)} than when '{root}' began",
            "the model that it was trained from",
            "Put that model back, or train from this one under another name (name=...).",
        )


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model's folder that training reads."""
    files = [folder / CONFIG_FILE, folder / TOKENIZER_FILE, *weight_files(folder)]
    return {file.name: digest_of(file) for file in files if file.is_file()}
