"""What stands beside a measured model, on the same examples: the model that it was made from."""

from dataclasses import dataclass

from distrain.config.recipe import TrainStage, beside_of
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import NotFoundError, PreflightError
from distrain.evaluation.meter import Meter
from distrain.models.gguf.convert import pretrained_folder
from distrain.models.weights.filling import build_empty
from distrain.models.weights.source import WeightSource
from distrain.parallel.collectives import HostGroup
from distrain.stages.base_model import BaseModel, to_float32
from distrain.stages.context import StageContext
from distrain.stages.export import TrainedModel
from distrain.stages.found_model import find_model, grown_by, open_folder
from distrain.stages.products import find_product


@dataclass(frozen=True)
class Beside:
    """A model to compare with, or why there is none.

    Args:
        weights: Of the model; ``None``: there is none.
        whole: Sizes and tokenizer, where they are not those of the measured model.
        reason: Why there is none.
    """

    weights: WeightSource | None = None
    whole: BaseModel | None = None
    reason: str | None = None

    def load(self, meter: Meter) -> Meter:
        """Return what measures it: of the same sizes, the very ``meter``."""
        assert self.weights is not None, "the caller looked"
        if self.whole is not None:
            meter = meter.of(build_empty(self.whole.model, self.whole.vocab_size))
        meter.load(self.weights)
        return meter


def find_beside(context: StageContext, trained: TrainedModel, whole: BaseModel) -> Beside:
    """Find what the last stage started from; or the folder that the recipe names instead.

    Raises:
        PreflightError: That folder cannot be used, or has another tokenizer.
    """
    stated = beside_of(context.stage)
    if stated is not None:
        return _of_folder(context, stated, whole)
    if not context.lineage.trained:
        return Beside(reason="of a folder nobody knows what it was made from (set data.beside)")
    if context.lineage.tuned is not None:
        return Beside(trained.base)
    return model_before(context)


def model_before(context: StageContext) -> Beside:
    """Find what the last stage, which trained every parameter, started from.

    Its weights stand for themselves, so what was before it may be gone by now. One that is there
    is the one that was recorded: a line of other products is refused before (``build_on``).
    """
    last, start = context.lineage.trained[-1].stage, context.lineage.start
    stage = context.recipe.stages[last]
    assert isinstance(stage, TrainStage), "only these train"
    if not start.trained and stage.model.from_pretrained is None:
        return Beside(reason=f"stage '{last}' began with random weights")
    try:
        return Beside(weights_before(context))
    except (NotFoundError, PreflightError) as error:
        return Beside(reason=f"what stage '{last}' started from is gone ({error.where})")


def weights_before(context: StageContext) -> WeightSource:
    """Open what the last stage, which trained every parameter, started from.

    Raises:
        NotFoundError: It is gone; or
        PreflightError: damaged.
    """
    start, host = context.lineage.start, HostGroup()
    names = [link.stage for link in start.model]
    found = {name: find_product(context.run, name, host, context.choice_of(name)) for name in names}
    checkpoints = {name: product.checkpoint for name, product in found.items()}
    base = find_model(context, start, checkpoints)
    # With rows for the tokens that the stage added: both sides share out the same vocabulary.
    base = grown_by(context, context.lineage.trained[-1].stage, base)
    return to_float32(base.source())


def _of_folder(context: StageContext, stated: str, whole: BaseModel) -> Beside:
    folder = pretrained_folder(stated, context.run.models)
    found = open_folder(folder)
    known, own = (Tokenizer.load(each.tokenizer) for each in (whole, found))
    if not known.is_grown_from(own):
        # Losses of a token are of the tokens that there are: other ones cannot be compared.
        raise PreflightError(
            f"data.beside: {folder}",
            f"the tokenizer {own.fingerprint[:12]}",
            f"that of the measured model, {known.fingerprint[:12]} ({whole.tokenizer})",
            "Name a model that reads the same tokens.",
        )
    if known.fingerprint != own.fingerprint:
        # As the measured model was when it got them: both share out the same vocabulary.
        found = found.with_tokens_of(whole.tokenizer)
    return Beside(to_float32(found.source()), found)
