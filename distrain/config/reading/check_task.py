"""Whether a task can read what the stage's kind brings. Pure."""

from collections.abc import Iterator

from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.tasks import TASK_FORMS
from distrain.config.training import TrainingConfig


def check_task(stage: StageParts) -> Iterator[Finding]:
    """Check ``training.task`` against the stage's kind."""
    training = stage.get("training", TrainingConfig)
    if training is None or stage.kind in TASK_FORMS[training.task].kinds:
        return
    fitting = [name for name, form in TASK_FORMS.items() if stage.kind in form.kinds]
    kinds = " or ".join(sorted(TASK_FORMS[training.task].kinds))
    yield Finding(
        stage.name,
        ("training", "task"),
        f"training.task: found {training.task} in a stage of kind {stage.kind}, whose batches it "
        f"cannot read; expected {' or '.join(fitting)} here; set it to that, or move the task to "
        f"a stage of kind {kinds}",
    )
