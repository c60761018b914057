"""Whether a stage that adds tokens trains what the model makes of them. Pure."""

from collections.abc import Sequence

from distrain.config.recipe import FinetuneStage
from distrain.config.training import FREEZING
from distrain.errors import RecipeError


def untrained_tokens(
    stage: FinetuneStage, tables: Sequence[str], tied: str | None = None
) -> RecipeError | None:
    """Return why new tokens could not be learned; ``None`` if they can.

    Their rows begin as the mean of all others: one that stays so is no token of its own, neither
    where it is read nor where it should be written.

    Args:
        stage: That adds tokens.
        tables: Names of the parameters with a row for each token: embedding and output layer.
        tied: Name of an output layer that is the embedding; the two part when adapters are trained
            beside them.
    """
    tokens = f"data.add_tokens ({', '.join(stage.data.add_tokens)})"
    if stage.lora is None:
        frozen = [name for name in tables if stage.training.is_frozen(name)]
        if not frozen:
            return None
        setting = next(name for name in FREEZING if getattr(stage.training, name))
        return RecipeError(
            f"training.{setting}",
            f"patterns that freeze {frozen[0]}, with {tokens}",
            f"that {' and '.join(tables)} are trained: the rows of new tokens begin as the mean of "
            "all others",
            "Leave these parameters out of what is frozen, or remove data.add_tokens.",
        )
    needed = [*tables, *([] if tied is None else [tied])]
    lost = [name for name in needed if not stage.lora.saves(name)]
    if not lost:
        return None
    modules = dict.fromkeys(name.rpartition(".")[0].rpartition(".")[2] for name in needed)
    stated = stage.lora.modules_to_save
    wanted = [*stated, *(module for module in modules if module not in stated)]
    return RecipeError(
        "lora.modules_to_save",
        f"[{', '.join(stated)}], with {tokens}",
        f"that {' and '.join(needed)} are trained beside the adapters, which do not reach the rows "
        "of new tokens: they begin as the mean of all others",
        f"Set lora.modules_to_save to [{', '.join(wanted)}], or lora to null.",
    )
