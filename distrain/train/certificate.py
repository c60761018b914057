"""Whether a resumed stage is where its checkpoint left it: compared, written down, and told.

Three things, each with what was recorded before the loss: the digests of weights, buffers and
optimizer state once they are loaded; which samples come next; and the first steps that are made
again. None costs a step. State or samples that differ end the stage, for everything after them
would be another run; a loss that differs is told, for other machines round otherwise.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from distrain.checkpoint.agreement import FailedError, agree, on_first
from distrain.checkpoint.commit import Content
from distrain.checkpoint.content import join, sum_hashes
from distrain.errors import CheckpointError, TrainingError
from distrain.monitor.monitor import Monitor
from distrain.monitor.step_result import StepResult
from distrain.parallel.collectives import HostGroup
from distrain.parallel.global_tensor import State
from distrain.runs.certificates import CERTIFICATE_VERSION, Certificate, describe
from distrain.runs.comparison import Comparison, ComputedOn, compare_how
from distrain.runs.folder import StageFolder
from distrain.runs.json_lines import last_records, read_records
from distrain.runs.records import (
    NOT_APPLIED,
    STEP,
    TRAIN,
    finite,
    is_validation,
    read_json,
    utc_now,
    write_json,
)

log = logging.getLogger(__name__)

Figures = dict[str, Any]
"""Of a step, by the names of its record."""

SAMPLES = ("data/first_sample", "data/batch_hash")
COMPARED = {
    "data/first_sample": "first_sample",
    "data/batch_hash": "batch_hash",
    "train/applied": "applied",
    "train/grad_norm": "grad_norm",
}
"""Fields of a step's record, and of its result; the trained metric has the task's name."""


@dataclass
class _Open:
    """A certificate in the making."""

    step: int
    state: str
    comparison: Comparison
    expected: dict[int, Figures]
    content: Content | None = None
    next_samples: str | None = None
    seconds: float = 0.0
    compared: int = 0
    found: list[str] = field(default_factory=list)

    @property
    def again(self) -> str:
        """Say which steps were made again, and how they were compared."""
        if not self.compared:
            return self.comparison.how
        first, last = self.step + 1, self.step + self.compared
        steps = f"step {first}" if first == last else f"steps {first} to {last}"
        return f"{steps} made again {self.comparison.how}"


class Certifier:
    """Compares a stage that goes on with what it was.

    Args:
        folder: Of the stage.
        host: Its ranks.
        computed_on: By this attempt.
        trained: Name of the metric that is trained on.
        monitor: Of rank 0, which writes.
    """

    def __init__(
        self,
        folder: StageFolder,
        host: HostGroup,
        computed_on: ComputedOn,
        trained: str,
        monitor: Monitor | None,
    ) -> None:
        self.computed_on = computed_on
        self._compared = COMPARED | {f"{TRAIN}{trained}": "loss"}
        self._folder = folder
        self._host = host
        self._monitor = monitor
        self._open: _Open | None = None

    def begin_anew(self) -> None:
        """Note which recorded steps come again where no checkpoint was made yet. Collective."""
        comparison, expected = self._expect(0)
        if expected:
            self._open = _Open(0, "begun anew, with no checkpoint", comparison, expected)

    def check_state(
        self,
        step: int,
        state: State,
        recorded: Content | None,
        samples: tuple[str | None, str | None],
    ) -> None:
        """Compare what was loaded, and note which recorded steps will come again. Collective.

        Call it before these are dropped from ``metrics.jsonl``.

        Args:
            step: Of the checkpoint.
            state: This rank's part, as loaded.
            recorded: What the commit says of it; ``None`` in one of an older version.
            samples: Digests of the samples that come next, as saved and as drawn now; the first is
                ``None`` in a checkpoint of another version, or of the last step.

        Raises:
            CheckpointError: On every rank: state or samples are not those that were saved.
        """
        self.close()  # one that a rewind cuts short
        begun = time.perf_counter()
        same = []
        if recorded is not None:
            same += ["weights", "optimizer state"]
            found = asdict(join(agree(self._host, lambda: sum_hashes(state))))
            names = {"product": "weights or buffers", "rest": "the optimizer's state"}
            _refuse(step, [
                f"{names[name]} with digest {found[name]} instead of {digest}"
                for name, digest in asdict(recorded).items() if found[name] != digest
            ])  # fmt: skip
        saved, drawn = samples
        if saved is not None:
            same.append("next samples")
            if saved != drawn:
                _refuse(step, [f"next samples with digest {drawn} instead of {saved}"])
        seconds = time.perf_counter() - begun
        words = f"{_listed(same)} as saved" if same else "the checkpoint has no digests"
        self._open = _Open(step, words, *self._expect(step), recorded, saved, seconds)

    def _expect(self, step: int) -> tuple[Comparison, dict[int, Figures]]:
        """Read which recorded steps come again. Collective."""
        try:
            return on_first(self._host, lambda: self._read_expected(step))
        except FailedError as failure:
            return Comparison.of_state_only(str(failure)), {}

    def _read_expected(self, step: int) -> tuple[Comparison, dict[int, Figures]]:
        data = read_json(self._folder.data) or {}
        comparison = compare_how(self.computed_on, data.get("computed_on"))
        # ``data.json`` is of the attempt that began at its step, so of the records after that. Any
        # before it, where a checkpoint was passed over since, may have been made elsewhere.
        first = max(step, int(data.get("step", 0)))
        records = self._records_after(first) if comparison.steps and first == step else {}
        expected = {
            number: figures
            for number, figures in records.items()
            if number <= step + comparison.steps
        }
        if comparison.steps and not expected:
            why = "the steps after it were recorded by more than one attempt"
            none = "no step was recorded after it"
            comparison = Comparison.of_state_only(none if first == step else why)
        return comparison, expected

    def _records_after(self, step: int) -> dict[int, Figures]:
        records: Iterable[Figures] = last_records(self._folder.metrics)
        if next((record.get(STEP, 0) for record in records), 0) > step:
            records = read_records(self._folder.metrics)  # more was lost than the end of the file
        names = (*self._compared, NOT_APPLIED)
        return {
            record[STEP]: {name: record.get(name) for name in names}
            for record in records
            if record.get(STEP, 0) > step and not is_validation(record)
        }

    def check_step(self, step: int, result: StepResult) -> None:
        """Compare a step that was made again with its record, if there is one.

        Args:
            step: From 1.
            result: What it showed, the same on every rank.

        Raises:
            TrainingError: On every rank: it read other samples.
        """
        opened = self._open
        if opened is None or (recorded := opened.expected.pop(step, None)) is None:
            return
        self._refuse_other_samples(opened, step, result, recorded)
        if result.not_applied == "rewind" != recorded[NOT_APPLIED]:
            # Decided since then: neither this step nor those after it can be what they were.
            why = f"from step {step} on, which is left out now, in what they read"
            opened.comparison = opened.comparison.of_samples_alone(why)
        shown = self._figures(result)
        opened.found += [
            f"step {step}: {name} {now!r} instead of {recorded[name]!r}"
            for name, now in shown.items()
            if not opened.comparison.is_close(name, now, recorded[name])
        ]
        opened.compared += 1
        if not opened.expected:
            self.close()

    def _figures(self, result: StepResult) -> Figures:
        figures = {name: getattr(result, own) for name, own in self._compared.items()}
        return dict(finite(figures))

    def _refuse_other_samples(
        self, opened: _Open, step: int, result: StepResult, recorded: Mapping[str, Any]
    ) -> None:
        shown = self._figures(result)
        for name in SAMPLES:
            if shown[name] != recorded[name]:
                raise TrainingError(
                    f"step {step}, made again from the checkpoint of step {opened.step}",
                    f"{name} {shown[name]}",
                    f"{recorded[name]}, as it was recorded before",
                    "It read other samples than it did, though no setting says so: start a new "
                    "run, or restore the stage's data.",
                )

    def close_if_nothing_comes(self) -> None:
        """Write the certificate at once where no step was recorded."""
        if self._open is not None and not self._open.expected:
            self.close()

    def close(self) -> None:
        """Write the certificate, once all is compared or nothing more will come."""
        opened, self._open = self._open, None
        if opened is None or self._monitor is None:
            return
        told: dict[str, Any] = {
            "step": opened.step,
            "state": opened.state,
            "steps": opened.compared,
            "again": opened.again,
            "found": opened.found,
        }
        certificate: Certificate = {
            "format_version": CERTIFICATE_VERSION,
            "time": utc_now(),
            "attempt": self._monitor.attempt,
            "content": None if opened.content is None else asdict(opened.content),
            "next_samples": opened.next_samples,
            "seconds": round(opened.seconds, 4),
            "computed_on": asdict(self.computed_on),
            **told,  # type: ignore[typeddict-item]
        }
        write_json(self._folder.certificate, certificate)
        log.log(logging.WARNING if opened.found else logging.INFO, "%s", describe(certificate))
        self._monitor.event("not_certified" if opened.found else "certified", **told)


def _refuse(step: int, found: Iterable[str]) -> None:
    words = ", ".join(found)
    if words:
        raise CheckpointError(
            f"the checkpoint of step {step}, as loaded",
            words,
            "what its commit record and its state say",
            "Its files are whole, so either they were written anew by hand or they were not read "
            "as they were written: remove this checkpoint to go on from the one before, and "
            "report it.",
        )


def _listed(parts: list[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
