"""What follows a spike, by ``training.on_spike``; at most the way back to a checkpoint before it.

That is done within the process, by all ranks together, and otherwise like a resume after a crash.
"""

from distrain.fault.page import mark
from distrain.monitor.step_result import StepResult
from distrain.train.progress import Progress
from distrain.train.run import Run


def answer_spike(run: Run, step: int, result: StepResult) -> bool:
    """Report a spike, and decide by ``training.on_spike``. Collective.

    Args:
        run: Of the stage.
        step: From 1.
        result: What it showed.

    Returns:
        Whether training goes back.
    """
    spike, guards = result.spike, run.guards
    assert spike is not None, "asked only then"
    done = "rewound" if guards.rewinds else "reported" if result.applied else "skipped"
    if run.monitor is not None:
        run.monitor.event(
            "spike",
            step=step,
            metric=spike.metric,
            value=spike.value,
            median=spike.median,
            limit=spike.limit,
            loss=result.loss,
            grad_norm=result.grad_norm,
            action=done,
        )
    if done == "skipped":
        guards.leave_out_one(step, result)
    return guards.rewinds


def rewind(run: Run, step: int, result: StepResult) -> Progress:
    """Leave out the steps around a spike, and return to the newest checkpoint before them.

    What is decided is on disk first. Then all is done as after a crash at this moment: checkpoints
    that hold a step of the window are put aside, the records after the checkpoint dropped.

    Args:
        run: Of the stage; the step's gradients are used up.
        step: Of the spike, from 1.
        result: What it showed.

    Returns:
        The progress of that checkpoint.

    Raises:
        TrainingError: It would be one rewind too many.
        RuntimeError: No checkpoint is left; another attempt begins at step 0 without these steps.
    """
    spike = result.spike
    assert spike is not None, "nothing else is rewound"
    run.checkpoints.wait()
    skip = run.guards.leave_out_window(
        step,
        spike,
        run.loader.feed.schedule,
        max_steps=run.max_steps,
        newest=run.checkpoints.steps(),
    )
    mark("restore", step)
    progress = run.restore(skip)
    if run.monitor is not None:
        run.guards.tell_step(progress.step)
    return progress
