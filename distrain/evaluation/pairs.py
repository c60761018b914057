"""Pairs of answers told apart by a model, beside what it was made from, with intervals. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from distrain.evaluation.bootstrap import ExampleSums, Floats, paired_intervals
from distrain.runs.conclusion import LIKELIER, LIKELIER_BASE, LIKELIER_GAIN, REWARDS


def compare_pairs(model: Floats, base: Floats, beta: float, *, seed: int) -> dict[str, Any]:
    """Return figures of pairs with their intervals, all of the same pairs.

    A reward is against the base, which itself has none. What can be asked of both is which answer
    they find likelier; of two answers of unequal length that is often the shorter one, so only the
    difference says what was learned.

    Args:
        model: Log-probabilities of the chosen and the rejected answers, shape (pairs, 2).
        base: The same, of the model that the other was made from.
        beta: Of the loss.
        seed: Of the bootstrap.
    """
    rewards = beta * (model - base)
    margins = rewards[:, 0] - rewards[:, 1]
    each: Mapping[str, Floats] = {
        "reward_chosen": rewards[:, 0],
        "reward_rejected": rewards[:, 1],
        "reward_margin": margins,
        "reward_accuracy": (margins > 0).astype(np.float64),
        LIKELIER: (model[:, 0] > model[:, 1]).astype(np.float64),
        LIKELIER_BASE: (base[:, 0] > base[:, 1]).astype(np.float64),
    }
    assert set(REWARDS) <= each.keys(), "what reports show"
    measured = {name: ExampleSums(found, np.ones(len(model))) for name, found in each.items()}
    asked: dict[str, Mapping[str, int]] = {name: {name: 1} for name in each}
    asked[LIKELIER_GAIN] = {LIKELIER: 1, LIKELIER_BASE: -1}
    found = paired_intervals(measured, asked, seed=seed)
    return {"examples": len(model)} | {name: each.to_json() for name, each in found.items()}
