"""The tokenizer that a line of stages begins with, and the tokens that its stages add to it.

Only of files that are here: what a run makes itself, and what a GGUF file becomes, is known later.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from distrain.config.added_tokens import (
    Content,
    TokenNameError,
    first_free_id,
    is_grown_from,
    plan_tokens,
    with_tokens,
)
from distrain.config.huggingface import OWN_CONTROL_TOKENS, TOKENIZER_FILE
from distrain.config.lineage import first_of, lineage_of
from distrain.config.pretrained.resolve import is_gguf, resolve_pretrained
from distrain.config.recipe import FinetuneStage, PrepareStage, Recipe, folder_of
from distrain.errors import PreflightError


def file_of_model(recipe: Recipe, name: str) -> Path | None:
    """Return the tokenizer of the model that a stage starts from, if a setting says where it is."""
    root = first_of(recipe.stages, name)
    written = folder_of(recipe.stages[root])
    if written is not None:
        try:
            return tokenizer_file(written, is_model=True)
        except PreflightError:  # told where the model is checked
            return None
    made = recipe.stages.get(str(lineage_of(recipe.stages, name).up_to(root).data))
    path = made.tokenizer.path if isinstance(made, PrepareStage) else None
    return None if path is None else Path(path).expanduser()


def tokenizer_file(written: str, *, is_model: bool = False) -> Path:
    """Return the file that holds a tokenizer which a setting names; it need not be there.

    Raises:
        PreflightError: As of ``resolve_pretrained``.
    """
    path = resolve_pretrained(written)
    is_folder = (is_model or path.is_dir()) and not is_gguf(path)
    return path / TOKENIZER_FILE if is_folder else path


def names_added(recipe: Recipe, name: str) -> dict[str, tuple[str, ...]]:
    """Return the tokens that each stage of a line adds, up to a stage itself, in their order."""
    found = {}
    for link in lineage_of(recipe.stages, name).trained:
        stage = recipe.stages[link.stage]
        if isinstance(stage, FinetuneStage) and stage.data.add_tokens:
            found[link.stage] = stage.data.add_tokens
    return found


def tokenizer_before(recipe: Recipe, name: str) -> Content | None:
    """Return the content of the tokenizer that a stage begins with; ``None``: nothing says it.

    What is wrong with the file, or with the names of an earlier stage, is told of these.
    """
    names = names_added(recipe, name)
    names.pop(name, None)
    try:
        return _grown(_content_of(file_of_model(recipe, name)), names.values())
    except TokenNameError:
        return None


def tokenizer_after(recipe: Recipe, name: str) -> Content | None:
    """Return the content of the tokenizer that a stage leaves; ``None``: nothing here says it.

    Raises:
        TokenNameError: A name that it adds, or a stage before it, cannot become a token.
    """
    return _grown(_content_of(file_of_model(recipe, name)), names_added(recipe, name).values())


def _grown(content: Content | None, added: Iterable[Sequence[str]]) -> Content | None:
    for names in added:
        if content is not None:
            content = with_tokens(content, plan_tokens(content, names).new)
    return content


def grown_rows(recipe: Recipe, name: str, rows: int) -> int:
    """Return the rows of a table once a line of stages has added its tokens.

    Args:
        recipe: The whole.
        name: The last stage of the line.
        rows: Of the model that the line begins with; those without a token are used first.
    """
    names = {each for added in names_added(recipe, name).values() for each in added}
    if not names:
        return rows
    try:
        content = tokenizer_after(recipe, name)
    except TokenNameError:  # told where names are checked
        return rows
    if content is not None:
        return max(rows, first_free_id(content))
    # Of a tokenizer that the run makes: it fills the rows, and these are its own control tokens.
    return rows + len(names.difference(OWN_CONTROL_TOKENS))


def reads_alike(recipe: Recipe, name: str, file: Path) -> bool:
    """Whether a tokenizer gives a text ids that mean the same to the model at the end of a line.

    Control tokens that the line has added since are no text. What cannot be read, or is not here,
    is told elsewhere, or compared once it is there.
    """
    try:
        content, other = tokenizer_after(recipe, name), _content_of(file)
    except TokenNameError:  # told where names are checked
        return True
    return content is None or other is None or is_grown_from(content, other)


def can_add_tokens(recipe: Recipe, name: str) -> bool:
    """Whether all names that a line of stages adds can become tokens, as far as is known here."""
    try:
        tokenizer_after(recipe, name)
    except TokenNameError:
        return False
    return True


def _content_of(file: Path | None) -> Content | None:
    if file is None or is_gguf(file):
        return None
    try:
        content: Content = json.loads(file.read_bytes())
        first_free_id(content)
    except (OSError, ValueError, RecursionError):
        return None
    return content
