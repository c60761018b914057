"""Weights & Biases, fed from the records of ``metrics.jsonl``; offline unless told otherwise."""

import os
from typing import Any

from distrain.config.training import WandbConfig
from distrain.monitor.sinks.background import SinkRun, Writer
from distrain.runs.records import STEP, Record

FLUSH_INTERVAL_S = 5.0
"""What a killed process loses of its .wandb file at most; ``metrics.jsonl`` loses nothing."""


class WandbWriter:
    """One W&B run. Each attempt of a stage adds an offline folder with the same run id."""

    def __init__(self, run: Any) -> None:  # noqa: ANN401  (wandb is not imported for its types)
        self._run = run

    def write(self, record: Record) -> None:
        """Log the numbers of a record; those of one step share a row."""
        fields = {key: value for key, value in record.items() if "/" in key and value is not None}
        self._run.log(fields, step=record[STEP])

    def close(self) -> None:
        """Write the last rows and mark the run as finished."""
        self._run.finish()


def wandb_writer(run: SinkRun, config: WandbConfig) -> Writer:
    """Open the W&B run of a stage.

    Raises:
        ModuleNotFoundError: wandb is not installed; the message names the extra.
    """
    # Read when wandb is imported: its own crash reports would go over the network.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; install distrain[wandb]") from error

    settings = wandb.Settings(
        console="off",  # our stdout and stderr stay ours
        silent=True,
        save_code=False,
        disable_git=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_transaction_log_flush_interval=FLUSH_INTERVAL_S,
    )
    opened = wandb.init(
        project=config.project,
        group=run.name,
        name=f"{run.name}.{run.stage}",
        id=run.run_id,
        resume="allow",
        mode=config.mode,
        dir=str(run.root),
        settings=settings,
    )
    opened.define_metric("*", step_metric=STEP)
    return WandbWriter(opened)
