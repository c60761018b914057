"""Cut the columns of the rows over the ranks of an axis, whatever the model."""

import torch.distributed as dist
from torch import nn

from distrain.errors import RecipeError
from distrain.models.causal_lm import model_in
from distrain.parallel.context.forward import cut_over
from distrain.parallel.context.probe import require_equal_over_columns
from distrain.parallel.context.stripes import stripes_of
from distrain.parallel.model_spec import ModelSpec
from distrain.parallel.ranks import Ranks


def cut_columns(module: nn.Module, ranks: Ranks, spec: ModelSpec) -> None:
    """Let the forward pass compute this rank's stripes of the rows; see ``ColumnForward``.

    Raises:
        RecipeError: The model needs more of a row than attention gathers.
    """
    del spec
    model, stripes = model_in(module), stripes_of(ranks)
    assert stripes is not None, "cut along an axis of several ranks"
    if model.angles_depend_on_length:
        raise RecipeError(
            "parallelism.context_parallel",
            f"{stripes.num_ranks}, with rotary angles that depend on how long a document is",
            "1, or angles that depend on positions alone",
            "Set parallelism.context_parallel to 1, or choose another rope_type.",
        )
    group = ranks.group("context") or dist.group.WORLD
    assert group is not None, "engines that cut start one"
    forward = cut_over(module, group, stripes)
    documents_apart = model.require_separate_documents

    def also_over_columns(wrapped: nn.Module) -> None:
        documents_apart(wrapped)
        require_equal_over_columns(wrapped, forward, model.vocab_size, model.input_device)

    # Asked when the model has its values, within what the engine has wrapped around it.
    model.require_separate_documents = also_over_columns  # type: ignore[method-assign, assignment]
