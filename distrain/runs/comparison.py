"""How closely a step that is made again can be expected to be what it was. Pure."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MAX_STEPS = 20
"""Compared at most; what one process differs by shows in the first two."""
MAX_STEPS_ELSEWHERE = 3
"""The same where sums come in another order: small differences grow from step to step."""
ELSEWHERE, OTHER_RANKS, LOW_PRECISION = 1e-5, 1e-6, 1e-3
"""Relative differences of a loss: on other versions, threads or devices; at another number of
ranks alone; of both at less than 32 bits, where one rounding is worth 4e-3."""
NORM_FACTOR = 10
"""So much more a gradient's norm may differ by, which is a sum over many more terms."""
EXACT = {"fp32", "fp64"}
STATE_ONLY = "state only"


@dataclass(frozen=True)
class ComputedOn:
    """What the bits of a step depend on, besides the checkpoint; kept in ``data.json``.

    Args:
        platform: Versions, device and threads.
        settings: Digest of what the recipe says of a step.
        has_dropout: Whether chance has a part in it, which is drawn for each rank.
    """

    platform: Mapping[str, object]
    precision: str
    settings: str
    ranks: int
    has_dropout: bool


@dataclass(frozen=True)
class Comparison:
    """How steps are compared with those recorded.

    Args:
        how: In words, for the records.
        tolerance: Of losses, relative; 0: bit by bit; infinite: the samples alone.
        steps: At most.
    """

    how: str
    tolerance: float
    steps: int

    @classmethod
    def of_state_only(cls, why: str) -> "Comparison":
        """No step is compared."""
        return cls(f"{STATE_ONLY}: {why}", 0, 0)

    def of_samples_alone(self, why: str) -> "Comparison":
        """From here on, only what is read is compared."""
        if self.tolerance == math.inf:
            return self
        return replace(self, how=f"{self.how}, {why}", tolerance=math.inf)

    def is_close(self, name: str, now: Any, before: Any) -> bool:  # noqa: ANN401  (JSON values)
        """Whether a figure of a step is what was recorded, or near enough."""
        if now == before or self.tolerance == math.inf:
            return True
        is_exact = self.tolerance == 0 or isinstance(now, bool) or isinstance(before, bool)
        if is_exact or now is None or before is None:
            return False
        factor = NORM_FACTOR if name.endswith("grad_norm") else 1
        return math.isclose(now, before, rel_tol=self.tolerance * factor)


def compare_how(now: ComputedOn, before: Mapping[str, Any] | None) -> Comparison:
    """Decide how closely steps can be compared with those that ``before`` recorded."""
    if before is None:
        return Comparison.of_state_only("no record of what the steps were computed on")
    if before.get("settings") != now.settings:
        return Comparison.of_state_only("the stage's settings were changed")
    if before.get("precision") != now.precision:
        return Comparison.of_state_only("another precision")
    same_platform = before.get("platform") == json.loads(json.dumps(now.platform))
    same_ranks = before.get("ranks") == now.ranks
    if same_platform and same_ranks:
        return Comparison("bit by bit", 0, MAX_STEPS)
    if now.has_dropout and not same_ranks:
        return Comparison("samples alone: each rank has dropout of its own", math.inf, MAX_STEPS)
    allowed = OTHER_RANKS if same_platform else ELSEWHERE
    if now.precision not in EXACT:
        allowed = LOW_PRECISION
    return Comparison(f"within {allowed:g}", allowed, MAX_STEPS_ELSEWHERE)


WATCHING = frozenset({"logging", "checkpoint", "eval", "needs"})


def settings_digest(seed: int, stage: Mapping[str, Any]) -> str:
    """Name what the recipe says of a step, without what only watches or saves it."""
    own = {name: value for name, value in stage.items() if name not in WATCHING}
    text = json.dumps([seed, own], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def has_dropout(value: object) -> bool:
    """Return whether any setting of that name is above 0."""
    if isinstance(value, Mapping):
        return any(
            ("dropout" in str(name) and isinstance(each, int | float) and each > 0)
            or has_dropout(each)
            for name, each in value.items()
        )
    return isinstance(value, list | tuple) and any(map(has_dropout, value))
