"""What ``pretrain`` and ``sft`` share: run the loop, and say how it ended."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import nn

from distrain.config.models import ModelConfig
from distrain.config.optimizers import OptimizerConfig
from distrain.fault.page import mark
from distrain.fault.wishes import Wish
from distrain.models import model_on_meta
from distrain.models.causal_lm import model_in
from distrain.optim import build_optimizer
from distrain.optim.state import OptimizerState
from distrain.runs.products import BEST_FIELD, CHECKPOINT_FIELD
from distrain.stages.context import Outcome
from distrain.train.loop import train
from distrain.train.progress import Progress
from distrain.train.run import Run


def optimizer_of(
    config: OptimizerConfig, model: ModelConfig, vocab_size: int
) -> Callable[[Iterable[tuple[str, nn.Parameter]]], OptimizerState]:
    """Return how the optimizer of a whole model is made of its named parameters."""
    if not config.tells_sides_apart:
        return partial(build_optimizer, config=config)
    shapes = model_on_meta(model, vocab_size)
    return partial(build_optimizer, config=config, has_inputs_first=shapes.has_inputs_first)


def train_to_outcome(run: Run) -> tuple[Outcome, Progress]:
    """Train until the end, early stopping or a wish. Collective.

    Returns:
        An outcome whose result holds the figures that every training stage has, or no result
        when a wish ended it; and how far it came.

    Raises:
        RecipeError: The model does not keep documents apart.
    """
    wrapped = run.engine.model
    model_in(wrapped).require_separate_documents(wrapped)
    progress, wish = train(run)
    # What follows measures: other rows than any validation had, another model beside it. Held to
    # what the loop's phases took, a batch that is merely larger would count as a hang.
    mark("evaluate", progress.step)
    if wish.ends:
        return Outcome(None, progress.step, requeue=wish is Wish.YIELD), progress
    schedule, early = run.loader.feed.schedule, run.training.early_stopping
    run.guards.read()  # what is on disk must explain what was left out
    skipped = run.guards.spans_left_out(schedule, progress.step)
    end = schedule.samples_before(progress.step)
    progress.check_complete(run.max_steps, end, early, skipped)
    content = run.save_and_wait(progress)  # which the loop has done: this asks what is there
    figures: dict[str, Any] = {
        CHECKPOINT_FIELD: {"step": progress.step, **asdict(content)},
        "steps": progress.step,
        "tokens": progress.tokens_seen,
        "train_loss": progress.train_loss,
        "eval_loss": progress.eval_loss,
        "best_eval_loss": progress.best_eval_loss,
        **best_of(run, progress),
        "stopped_early": progress.step < run.max_steps,
        "ranks": run.host.world_size,
        "samples": progress.ledger.to_json(),
    }
    return Outcome(figures, progress.step), progress


def best_of(run: Run, progress: Progress) -> dict[str, Any]:
    """Name the checkpoint of the best validation, where it is kept. Collective."""
    product = run.checkpoints.best_product() if run.keep_best is not None else None
    if product is None or run.keep_best is None:
        return {}
    metric = run.keep_best.metric or run.task.form.trained.name
    is_same = product["step"] == progress.best_step  # unless the save of a better one failed
    value = progress.best_value if is_same else None
    return {BEST_FIELD: {**product, "metric": metric, "value": value}}


def close(run: Run) -> None:
    """Flush the records and release the engine. Collective."""
    # Copies of metrics have limits of their own; those of a validation are not theirs.
    mark("ended")
    run.host.barrier()
    if run.monitor is not None:
        run.monitor.close()
    run.engine.close()
