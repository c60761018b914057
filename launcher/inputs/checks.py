"""The list of checks that open a recipe's files; one more is one more line.

Each reads little (``config.json``, ``tokenizer.json``, the first rows) and needs no torch. What is
not there is left to ``launcher.preflight``: a recipe may be validated on another machine.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from distrain.config.reading.load import LoadedRecipe
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import Recipe
from launcher.inputs.axes import check_axes
from launcher.inputs.balancing import note_balancing
from launcher.inputs.beside import check_beside
from launcher.inputs.chats import check_chats
from launcher.inputs.harness import check_harness
from launcher.inputs.models import check_made_models, check_models
from launcher.inputs.new_tokens import check_new_tokens
from launcher.inputs.sources import check_sources
from launcher.inputs.tokenizers import check_same_tokenizers, check_tokenizers

CHECKS: tuple[Callable[[Recipe], Iterator[Finding]], ...] = (
    check_tokenizers,
    check_same_tokenizers,
    check_sources,
    check_models,
    check_beside,
    check_made_models,
    note_balancing,
    check_axes,
    check_chats,
    check_harness,
    check_new_tokens,
)


def check_inputs(loaded: LoadedRecipe, *, done: Collection[str] = ()) -> LoadedRecipe:
    """Compare a recipe with the files that it names.

    Args:
        loaded: The recipe.
        done: Stages of the run that will not read their files again.

    Returns:
        The recipe, with a note for what is odd but may be meant.

    Raises:
        RecipeErrors: Everything that is certain to fail in the run, each at its place.
    """
    findings = [
        finding for check in CHECKS for finding in check(loaded.recipe) if finding.stage not in done
    ]
    loaded.refuse(finding for finding in findings if not finding.is_note)
    notes = [finding.sentence for finding in findings if finding.is_note]
    return replace(loaded, notes=(*loaded.notes, *notes))
