"""Whether a stage can build on the checkpoint that it names, and which metrics decide. Pure."""

from collections.abc import Iterator, Mapping

from distrain.config.best import watched_metrics
from distrain.config.layout import count_steps
from distrain.config.lineage import MODEL_KINDS, need_of
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest
from distrain.config.tasks import TASK_FORMS
from distrain.config.training import CheckpointConfig, EvalConfig, TrainingConfig

KEY = "from_checkpoint"
HARNESS_PARTS = ("tasks", "NAME", "METRIC")


def check_checkpoints(stage: StageParts, stages: Mapping[str, StageParts]) -> Iterator[Finding]:
    """Check ``from_checkpoint`` against the stage it is about, and what ``keep_best`` watches."""
    yield from _check_watched(stage)
    choice = stage.from_checkpoint
    if choice == "last" or stage.needs is None:
        return
    source = need_of(stages, stage.name, MODEL_KINDS)
    if source is None:
        message = f"{KEY}: found {choice}, but this stage needs no stage that trains; remove it"
        yield Finding(stage.name, (KEY,), message)
        return
    config = stages[source].get("checkpoint", CheckpointConfig)
    training = stages[source].get("training", TrainingConfig)
    if config is None or training is None:
        return
    if choice == "best":
        if config.keep_best is None:
            message = (
                f"{KEY}: found best, but '{source}' keeps no best checkpoint; set "
                f"{source}.checkpoint.keep_best to {{}}, or write last"
            )
            yield Finding(stage.name, (KEY,), message)
        return
    last = count_steps(training)
    if last is None or choice == last or (choice < last and choice % config.save_steps == 0):
        return
    end = f" or {last}, where it ends" if choice < last else ""
    message = (
        f"{KEY}: found {choice}, but '{source}' ends at step {last} and saves every "
        f"{config.save_steps} steps; expected a multiple of {config.save_steps}{end}"
    )
    yield Finding(stage.name, (KEY,), message)


def _check_watched(stage: StageParts) -> Iterator[Finding]:
    """Check names of metrics; which sources there are, a stage that begins knows."""
    training, config = (
        stage.get("training", TrainingConfig),
        stage.get("checkpoint", CheckpointConfig),
    )
    if training is None:
        return
    form = TASK_FORMS[training.task]
    known = [metric.name for metric in (*form.metrics, *form.validated)]
    known += [figure.name for figure in form.derived]
    keep_best = None if config is None else config.keep_best
    for setting, watched in watched_metrics(training.early_stopping, keep_best).items():
        if watched.is_of_harness:
            yield from _check_harness(stage, setting, str(watched.metric))
            continue
        name = (watched.metric or known[0]).partition("/")[0]
        if name in known:
            continue
        near = nearest(name, known)
        remedy = f"; did you mean {near}?" if near else ""
        yield Finding(
            stage.name,
            (*setting.split("."), "metric"),
            f"{setting}.metric: found '{watched.metric}', which validations of "
            f"{training.task} do not measure; expected {' or '.join(known)}, or one of them and a "
            f"source, as {known[0]}/web{remedy}",
        )


def _check_harness(stage: StageParts, setting: str, metric: str) -> Iterator[Finding]:
    """Check the name of what ``lm_eval`` measures; of what a group holds the stage knows more."""
    config = stage.get("eval", EvalConfig)
    if config is None:
        return
    remedy = None
    if config.harness is None:
        remedy = "eval.harness, which names the tasks that validations ask; set eval.harness.tasks"
    elif len([part for part in metric.split("/") if part]) != len(HARNESS_PARTS):
        remedy = f"{'/'.join(HARNESS_PARTS)}, as in tasks/{config.harness.tasks[0]}/acc"
    if remedy is not None:
        message = f"{setting}.metric: found '{metric}'; expected {remedy}"
        yield Finding(stage.name, (*setting.split("."), "metric"), message)
