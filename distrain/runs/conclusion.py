"""What follows from a model's figures beside its base's, in a sentence. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANSWERS, DATA = "answers", "data"
COMPARISONS = (ANSWERS, DATA)
"""Keys of a ``result.json``: held-out answers, and those of data that ``evaluate`` was given."""
ALONE = "alone"
"""Of them: why no base stands beside the model."""
MIN_EXAMPLES = 30
"""Of fewer, a bootstrap's interval is too short for its name."""
PREFERENCES = "preferences"
"""Of pairs of answers, held out or of the test split."""
REWARDS = ("reward_margin", "reward_accuracy", "reward_chosen", "reward_rejected")
LIKELIER, LIKELIER_BASE = "chosen_likelier", "chosen_likelier_base"
"""Share of the pairs of which the chosen answer is the likelier one."""
LIKELIER_GAIN = "chosen_likelier_gain"
SMALL = 0.1
"""A smaller difference is written with a digit more."""


@dataclass(frozen=True)
class _Difference:
    """A difference with its interval, from a record."""

    value: float
    low: float
    high: float

    @classmethod
    def read(cls, record: object) -> "_Difference | None":
        if not isinstance(record, Mapping):
            return None
        values = (record.get(key) for key in ("value", "low", "high"))
        found = [each for each in values if isinstance(each, int | float) and math.isfinite(each)]
        return cls(*found) if len(found) == 3 else None

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies on that side of 0, else 0: within noise."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    @property
    def is_nothing(self) -> bool:
        return self.value == self.low == self.high == 0

    def text(self, unit: str) -> str:
        """Write its size, such as ``0.42 nats a token (0.35 to 0.50)``."""
        low, high = sorted(abs(end) for end in (self.low, self.high))
        return self._written(abs(self.value), low, high, unit, "")

    def signed_text(self, unit: str) -> str:
        return self._written(self.value, self.low, self.high, unit, "+")

    def _written(self, value: float, low: float, high: float, unit: str, sign: str) -> str:
        form = f"{sign}z.{2 if abs(value) >= SMALL else 3}f"
        return f"{value:{form}} {unit} ({low:{form}} to {high:{form}})"


def conclude(answers: Mapping[str, Any], unit: str) -> str | None:
    """Say what the figures of ``answers`` of a ``result.json`` mean.

    Args:
        answers: As ``distrain.evaluation.comparison`` makes them; whatever a file holds.
        unit: Of the losses, such as ``nats a token``.

    Returns:
        ``None``: there are no intervals, as in records of older versions.
    """
    count, prompt = answers.get("examples"), _Difference.read(answers.get("prompt_gap"))
    if not isinstance(count, int) or prompt is None:
        return None
    if count < MIN_EXAMPLES:
        examples = "1 example" if count == 1 else f"{count} examples"
        few = f"{examples}: too few to say, at least {MIN_EXAMPLES} are needed"
        losses = [answers.get(key) for key in ("loss", "loss_base")]
        if not all(isinstance(loss, int | float) for loss in losses):
            return few
        return f"{few} (loss {losses[0]:.3f}, of the base {losses[1]:.3f} {unit})"
    gain = _Difference.read(answers.get("gain"))
    growth = _Difference.read(answers.get("prompt_gain"))
    parts = [
        *([] if gain is None else [_of_gain(gain, unit)]),
        *([] if prompt.is_nothing else [_of_prompt(prompt, growth, unit)]),
    ]
    if ALONE in answers:
        parts.append(f"no base stands beside it: {answers[ALONE]}")
    return f"{count} examples: {'; '.join(parts)}" if parts else None


def conclude_all(result: Mapping[str, Any], unit: str) -> tuple[str, ...]:
    """Return a sentence for each comparison of a ``result.json``."""
    found = [
        *(conclude(each, unit) for key in COMPARISONS if isinstance(each := result.get(key), dict)),
        *(conclude_pairs(each) for each in [result.get(PREFERENCES)] if isinstance(each, dict)),
    ]
    return tuple(text for text in found if text is not None)


def conclude_pairs(preferences: Mapping[str, Any]) -> str | None:
    """Say what the figures of ``preferences`` mean, as ``distrain.evaluation.pairs`` makes them.

    Returns:
        ``None``: there are no intervals, as in records of older versions.
    """
    intervals = preferences.get("intervals")
    intervals = intervals if isinstance(intervals, Mapping) else {}
    count, read = intervals.get("examples"), _Difference.read
    margin, accuracy = read(intervals.get("reward_margin")), read(intervals.get("reward_accuracy"))
    if not isinstance(count, int) or margin is None or accuracy is None:
        return None
    if count < MIN_EXAMPLES:
        pairs = "1 pair" if count == 1 else f"{count} pairs"
        return f"{pairs}: too few to say, at least {MIN_EXAMPLES} are needed"
    if margin.sign == 0:
        said = f"what it prefers more than its base is within noise, {margin.signed_text('margin')}"
    else:
        better = "chosen" if margin.sign > 0 else "rejected"
        said = (
            f"it prefers the {better} answers more than its base does, by "
            f"{margin.text('of reward')}, the chosen one in {_percent(accuracy)} of the pairs"
        )
    likelier = [read(intervals.get(name)) for name in (LIKELIER, LIKELIER_BASE, LIKELIER_GAIN)]
    return "; ".join([f"{count} pairs: {said}", *_of_likelier(*likelier)])


def _of_likelier(
    model: _Difference | None, base: _Difference | None, gain: _Difference | None
) -> list[str]:
    if model is None or base is None or gain is None:
        return []
    said = f"the chosen one is the likelier in {_percent(model)}, by its base in {base.value:.0%}"
    if gain.sign == 0:
        return [f"{said}: the difference is within noise"]
    return [f"{said}: {'more' if gain.sign > 0 else 'less'} often"]


def _percent(share: _Difference) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def _of_gain(gain: _Difference, unit: str) -> str:
    if gain.sign == 0:
        return f"the difference to the base is within noise, {gain.signed_text(unit)}"
    return f"{'better' if gain.sign > 0 else 'worse'} than the base by {gain.text(unit)}"


def _of_prompt(prompt: _Difference, growth: _Difference | None, unit: str) -> str:
    if prompt.sign == 0:
        return f"what the prompt adds is within noise, {prompt.signed_text(unit)}"
    if prompt.sign < 0:
        return f"other examples' prompts serve better than its own, by {prompt.text(unit)}"
    adds = f"the prompt adds {prompt.text(unit)}"
    if growth is None:
        return adds
    if growth.sign == 0:
        return f"{adds}, to the base as much within noise"
    beside = "more" if growth.sign > 0 else "less"
    return f"{adds}, {growth.text(unit)} {beside} than to the base"
