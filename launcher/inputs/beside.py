"""The model that ``evaluate`` measures another one beside: can it be read, has it the same tokens.

A folder that is not here is left to ``launcher.preflight``.
"""

from collections.abc import Iterator

from distrain.config.huggingface import load_config
from distrain.config.pretrained.resolve import MissingPackageError, is_gguf, resolve_pretrained
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import Recipe, beside_of
from distrain.errors import PreflightError
from launcher.base_tokenizers import file_of_model, reads_alike, tokenizer_file
from launcher.inputs.models import hub_model_problem
from launcher.inputs.tokenizers import tokenizer_problem
from launcher.inputs.weights import weights_problem_of

SETTING = ("data", "beside")


def check_beside(recipe: Recipe) -> Iterator[Finding]:
    """Check each model that stands beside another."""
    for name, stage in recipe.stages.items():
        written = beside_of(stage)
        problem = None if written is None else _problem(recipe, name, written)
        if problem is not None:
            yield Finding(name, SETTING, f"data.beside: {problem}")


def _problem(recipe: Recipe, name: str, written: str) -> str | None:
    try:
        folder = resolve_pretrained(written)
        if not folder.exists():
            return hub_model_problem(written)
        model, vocab_size = load_config(folder)
        problem = None if is_gguf(folder) else weights_problem_of(folder, model, vocab_size)
        own = tokenizer_file(written, is_model=True)
    except MissingPackageError:
        return None
    except PreflightError as error:
        return str(error)
    problem = problem or tokenizer_problem(own)
    known = file_of_model(recipe, name)
    if problem is None and known is not None and not reads_alike(recipe, name, own):
        problem = (
            f"found {own}, another tokenizer than that of the measured model, {known}; losses of a "
            "token can be compared only where the tokens are the same: name a model that has it"
        )
    return problem
