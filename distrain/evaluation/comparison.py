"""Answers of a model beside those of its base, on the same examples, with intervals. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distrain.evaluation.bootstrap import ExampleSums, paired_intervals

GAIN = "gain"
GAP = "prompt_gap"
GAP_OF_BASE = "prompt_gap_base"
GAP_GROWTH = "prompt_gain"
OWN, SHUFFLED = "loss", "loss_shuffled_prompts"
BASE_OWN, BASE_SHUFFLED = "loss_base", "loss_base_shuffled_prompts"

DIFFERENCES: Mapping[str, Mapping[str, int]] = {
    GAIN: {BASE_OWN: 1, OWN: -1},
    GAP: {SHUFFLED: 1, OWN: -1},
    GAP_OF_BASE: {BASE_SHUFFLED: 1, BASE_OWN: -1},
    GAP_GROWTH: {SHUFFLED: 1, OWN: -1, BASE_SHUFFLED: -1, BASE_OWN: 1},
}
"""By how much the model is better than its base; what each loses with the prompts of other
examples, which is what it took from its own; and how much more that is than the base takes."""


@dataclass(frozen=True)
class AnswerSums:
    """What one model makes of a set of examples.

    Args:
        own: After their own prompts.
        shuffled: After those of other examples.
    """

    own: ExampleSums
    shuffled: ExampleSums


def compare_answers(model: AnswerSums, base: AnswerSums | None, *, seed: int) -> dict[str, Any]:
    """Return the figures of ``result.json``; without a base those that need none.

    Args:
        model: As it is now.
        base: As it was, on the same examples.
        seed: Of the bootstrap.
    """
    measured = {OWN: model.own, SHUFFLED: model.shuffled}
    if base is not None:
        measured |= {BASE_OWN: base.own, BASE_SHUFFLED: base.shuffled}
    # An example of one token has no target, and says nothing of any model.
    has_targets = (model.own.counts > 0) & (model.shuffled.counts > 0)
    measured = {name: each.where(has_targets) for name, each in measured.items()}
    known = {
        name: weights for name, weights in DIFFERENCES.items() if weights.keys() <= measured.keys()
    }
    intervals = paired_intervals(measured, known, seed=seed)
    return {
        "examples": int(has_targets.sum()),
        "targets": int(model.own.counts.sum()),
        **{name: each.ratio for name, each in measured.items()},
        **{name: interval.to_json() for name, interval in intervals.items()},
    }
