"""What the loop tells the world, on rank 0: ``metrics.jsonl``, events, lines, copies for sinks.

It watches and never changes a step. ``metrics.jsonl`` is the truth; the rest is made from it.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from distrain.config.tasks import CAUSAL_LM, TASK_FORMS, TaskForm
from distrain.config.training import LoggingConfig
from distrain.monitor.metrics_file import MetricsFile, truncate_after
from distrain.monitor.sinks import SINKS
from distrain.monitor.sinks.background import BackgroundSink, SinkRun, Writer
from distrain.monitor.step_result import StepResult
from distrain.monitor.throughput import mfu
from distrain.runs.durable import write_text
from distrain.runs.folder import RunFolder, StageFolder
from distrain.runs.records import (
    EVAL,
    NOT_APPLIED,
    NUM_PADDING,
    STEP,
    TRAIN,
    Record,
    append_event,
    finite,
    is_validation,
    utc_now,
    write_json,
)
from distrain.runs.step_line import Pace, step_line, validation_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workload:
    """What speed is measured against; constant during a stage."""

    max_steps: int
    num_ranks: int
    flops_per_token: float
    """Forward and backward, as the model declares it."""
    peak_flops: float
    """Of one device, in FLOP/s."""


class Monitor:
    """Records a stage; made on rank 0 only.

    Args:
        run: Folder of the run.
        stage: Name of the stage.
        attempt: Start of the stage that this process is part of, from 1.
        workload: For tokens per second, MFU and the time left.
        config: How often to show a line, and which sinks to feed.
        task: What is measured.
    """

    def __init__(
        self,
        run: RunFolder,
        stage: str,
        attempt: int,
        workload: Workload,
        config: LoggingConfig,
        task: TaskForm = TASK_FORMS[CAUSAL_LM],
    ) -> None:
        self.stage = stage
        self.attempt = attempt
        self.workload = workload
        self._run = run
        self._config = config
        self._task = task
        self._file = MetricsFile(run.stage(stage).metrics)
        self._samples: MetricsFile | None = None
        self._sinks = self._open_sinks()
        self._sunk = (-1, False)
        """The last record that sinks were given: its step, and whether it is of a validation."""
        self._pace = Pace(workload.max_steps)
        self._has_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def truncate_after(self, step: int) -> int:
        """Drop what was recorded after ``step``, from which this attempt goes on; samples too.

        Those steps were lost with the process and will be made again; so the file of a killed and
        resumed run holds each step once. -1 drops all.

        Returns:
            How many records were dropped.
        """
        if self._samples is not None:  # of before a rewind: it would go on in the replaced file
            self._samples.close()
            self._samples = None
        truncate_after(self._run.stage(self.stage).samples, step)
        return self._file.truncate_after(step)

    def record_step(
        self, step: int, result: StepResult, *, step_time_s: float, data_time_s: float
    ) -> None:
        """Write the record of a step; show a line every ``logging_steps`` and at the last step.

        Args:
            step: 1 for the first update.
            result: What it showed.
            step_time_s: The whole step, ``data_time_s`` included.
            data_time_s: Waiting for the loader.
        """
        tokens_per_sec = (result.num_tokens - result.num_padding) / step_time_s
        times = {"perf/step_time_s": step_time_s, "perf/data_time_s": data_time_s}
        record = self._write(
            {STEP: step} | self._figures(result) | times | self._speed(tokens_per_sec)
        )
        self._pace.add(record)
        is_due = step % self._config.logging_steps == 0
        if is_due or step == self.workload.max_steps or not self._has_shown:
            self._has_shown = True
            logger.info("%s", step_line(self.stage, record, self._pace, self._task))

    def record_scores(
        self,
        step: int,
        metrics: Mapping[str, float],
        by_source: Mapping[str, Mapping[str, float]],
        others: Mapping[str, float] | None = None,
    ) -> None:
        """Write the record of a validation after ``step`` updates, and show it.

        Args:
            step: 0 for the validation before the first update.
            metrics: Of the task, over all that was measured.
            by_source: As ``metrics``, by source.
            others: What else was measured, by its field.
        """
        figures = self._task.with_derived(metrics)
        scores: dict[str, Any] = {STEP: step}
        scores |= {f"{EVAL}{name}": value for name, value in figures.items()}
        if len(by_source) > 1:
            scores |= {
                f"{EVAL}{name}/{source}": found[name]
                for name in metrics
                for source, found in by_source.items()
            }
        record = self._write(scores | dict(others or {}))
        logger.info("%s", validation_line(self.stage, record, self.workload.max_steps, self._task))

    def record_samples(self, step: int, written: Sequence[Record]) -> None:
        """Append what the model wrote after ``step`` updates to ``samples.jsonl``.

        Without a time or an attempt: a run that was killed and resumed has the same file.
        """
        if self._samples is None:
            self._samples = MetricsFile(self._run.stage(self.stage).samples)
        for record in written:
            self._samples.append({STEP: step} | dict(record))

    def record_data(self, record: Record) -> None:
        """Replace ``data.json`` by the record of this attempt; see ``records.StageData``."""
        head = {"time": utc_now(), "attempt": self.attempt}
        write_json(self._run.stage(self.stage).data, head | dict(record))

    def event(self, kind: str, **fields: Any) -> None:  # noqa: ANN401  (fields depend on the kind)
        """Append an event of this stage and attempt; ``kind`` is one of ``EVENT_KINDS``."""
        append_event(self._run.events, kind, self.stage, attempt=self.attempt, **fields)

    def close(self) -> None:
        """Close the file and let the sinks finish, each for at most ten seconds."""
        self._file.close()
        if self._samples is not None:
            self._samples.close()
        for sink in self._sinks:
            sink.close()
        self._sinks = []

    def _figures(self, result: StepResult) -> dict[str, Any]:
        metrics = {self._task.trained.name: result.loss, **result.others}
        # Not from the number of steps: earlier ones may have had another batch size. Samples never
        # lie.
        samples_seen = result.first_sample + result.num_samples
        return {
            **{f"{TRAIN}{name}": value for name, value in metrics.items()},
            "train/learning_rate": result.learning_rate,
            "train/grad_norm": result.grad_norm,
            "train/tokens_seen": samples_seen * result.num_tokens // result.num_samples,
            "train/applied": result.applied,
            **({NOT_APPLIED: result.not_applied} if result.not_applied else {}),
            "data/first_sample": result.first_sample,
            "data/num_samples": result.num_samples,
            "data/num_targets": result.num_targets,
            **({NUM_PADDING: result.num_padding} if result.num_padding else {}),
            "data/batch_hash": result.batch_hash,
            "memory/max_gib": result.memory_gib,
        }

    def _speed(self, tokens_per_sec: float) -> dict[str, float]:
        load = self.workload
        return {
            "perf/tokens_per_sec": tokens_per_sec,
            "perf/mfu": mfu(tokens_per_sec, load.flops_per_token, load.num_ranks, load.peak_flops),
        }

    def _write(self, fields: dict[str, Any]) -> dict[str, Any]:
        record: dict[str, Any] = {"time": utc_now(), "attempt": self.attempt} | finite(fields)
        self._file.append(record)
        # After a rewind, steps come again that a sink has, and most take none twice: it keeps what
        # was first said of them, and hears on from the first new one.
        place = (record[STEP], is_validation(record))
        if place > self._sunk:
            self._sunk = place
            for sink in self._sinks:
                sink.write(record)
        return record

    def _open_sinks(self) -> list[BackgroundSink]:
        run = SinkRun(
            name=self._run.root.name,
            stage=self.stage,
            root=self._run.root,
            run_id=_sink_run_id(self._run.stage(self.stage)),
        )
        return [
            self._open_sink(name, partial(SINKS[name], run, section))
            for name, section in self._config.sinks.items()
        ]

    def _open_sink(self, name: str, open_writer: Callable[[], Writer]) -> BackgroundSink:
        def failed(reason: str) -> None:
            self.event("sink_failed", sink=name, reason=reason)

        return BackgroundSink(name, open_writer, failed)


def _sink_run_id(stage: StageFolder) -> str:
    """Read the stage's run id, or draw one: all attempts share it."""
    path = stage.sink_run_id
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()
