"""Whether a stage can do what it asks to be done about a spike. Pure."""

from collections.abc import Iterator

from distrain.config.layout import count_steps
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.training import CheckpointConfig, ParallelismConfig, TrainingConfig


def check_spikes(stage: StageParts) -> Iterator[Finding]:
    """Check ``training.on_spike`` against the checkpoints and the strategy."""
    training = stage.get("training", TrainingConfig)
    if training is None:
        return
    if training.on_spike == "rewind":
        yield from _check_rewind(stage, training)
    parallelism = stage.get("parallelism", ParallelismConfig)
    is_zero = parallelism is not None and parallelism.strategy == "deepspeed"
    judges_norm = training.spikes.grad_norm_threshold is not None
    if training.on_spike == "skip" and is_zero and judges_norm:
        yield Finding(
            stage.name,
            ("training", "on_spike"),
            "training.on_spike: found skip with parallelism.strategy deepspeed, which knows the "
            "gradient norm only in its own step: a spike of the loss is skipped, one of the norm "
            "only reported; set it to rewind to undo both",
            is_note=True,
        )


def _check_rewind(stage: StageParts, training: TrainingConfig) -> Iterator[Finding]:
    config, last = stage.get("checkpoint", CheckpointConfig), count_steps(training)
    if config is None:
        return
    if config.keep_last < 2:
        yield Finding(
            stage.name,
            ("checkpoint", "keep_last"),
            f"checkpoint.keep_last: found {config.keep_last} with training.on_spike rewind; "
            "expected at least 2: the newest may hold the bad window, and the one before it is "
            "what training goes back to",
        )
    if last is not None and config.save_steps >= last:
        yield Finding(
            stage.name,
            ("checkpoint", "save_steps"),
            f"checkpoint.save_steps: found {config.save_steps} with training.on_spike rewind, but "
            f"the stage ends at step {last}: every rewind goes back to step 0; lower save_steps",
            is_note=True,
        )
