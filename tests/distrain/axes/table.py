"""What goes together: the list from which tests run each combination, and the page shows it.

    python -m tests.distrain.axes.table --write

puts the table between the marks in ``docs/parallelism.md``.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.config.axes import REFUSED_PAIRS
from distrain.config.layout import AXIS_SETTINGS
from tests.distrain.axes.families import OURS
from tests.distrain.axes.harness import Case

PAGE = Path(__file__).parents[3] / "docs" / "parallelism.md"
BEGIN, END = "<!-- table of tests/distrain/axes/table.py -->", "<!-- end of the table -->"
SHARDS = {"data_parallel_shard": 2}
COPIES = {"data_parallel_replicate": 2}
TENSOR = {"tensor_parallel": 2, "sequence_parallel": False}
SEQUENCE = {"tensor_parallel": 2, "sequence_parallel": True}
CONTEXT = {"context_parallel": 2}
PIPELINE = {"pipeline_parallel": 2}
EXPERT = {"expert_parallel": 2}
ANY = (OURS, "gpt2")
MIXTURES = ("mixtral", "qwen3_moe")
ZERO_BUBBLE = (
    "it takes the gradients of weights by themselves, which a loss over a cut vocabulary does not "
    "give"
)
SHORT = {"tensor": "TP", "context": "CP", "pipeline": "PP", "expert": "EP"}


@dataclass(frozen=True)
class Combination:
    """Axes that work together.

    Args:
        name: In the field's letters.
        parallelism: The recipe's, all degrees stated.
        families: That the test trains.
        micro_batch_size: Rows of a forward pass; a pipeline needs several in a step.
    """

    name: str
    parallelism: Mapping[str, Any]
    families: tuple[str, ...] = ANY
    micro_batch_size: int = 2

    @property
    def cases(self) -> dict[str, Case]:
        """What the test runs, by family: six steps, against one process."""
        size = self.micro_batch_size
        return {
            family: Case(family, self.parallelism, steps=6, micro_batch_size=size)
            for family in self.families
        }


WORKS = (
    Combination("FSDP2", SHARDS),
    Combination("HSDP", {**COPIES, **SHARDS}),
    Combination("TP x FSDP2", {**TENSOR, **SHARDS}),
    Combination("TP x SP x FSDP2", {**SEQUENCE, **SHARDS}),
    Combination("TP x SP x HSDP", {**SEQUENCE, **COPIES, **SHARDS}),
    Combination("CP x FSDP2", {**CONTEXT, **SHARDS}),
    Combination("CP x HSDP", {**CONTEXT, **COPIES, **SHARDS}),
    Combination("CP x TP", {**CONTEXT, **TENSOR}),
    Combination("CP x TP x SP x FSDP2", {**CONTEXT, **SEQUENCE, **SHARDS}),
    Combination("PP x FSDP2", {**PIPELINE, **SHARDS}, micro_batch_size=1),
    Combination("PP x TP", {**PIPELINE, **TENSOR}, micro_batch_size=1),
    Combination("PP x TP x SP x FSDP2", {**PIPELINE, **SEQUENCE, **SHARDS}, micro_batch_size=1),
    Combination("PP x HSDP", {**PIPELINE, **COPIES, **SHARDS}, micro_batch_size=1),
    Combination("PP x TP x SP", {**PIPELINE, **SEQUENCE}, micro_batch_size=1),
    Combination("EP x FSDP2", {**EXPERT, **SHARDS}, MIXTURES),
    Combination("EP x TP x SP", {**EXPERT, **SEQUENCE}, MIXTURES),
    Combination("EP x CP", {**EXPERT, **CONTEXT}, MIXTURES),
    Combination("EP x PP", {**EXPERT, **PIPELINE}, MIXTURES, micro_batch_size=1),
    Combination("EP x HSDP", {**EXPERT, **COPIES, **SHARDS}, MIXTURES),
)
"""Each is run by ``test_table.py`` under ``make axes``."""


def refused() -> dict[str, tuple[dict[str, Any], str]]:
    """Return what is refused: name -> (``parallelism``, what the message says as the reason)."""
    pairs: dict[str, tuple[dict[str, Any], str]] = {}
    for pair, reason in REFUSED_PAIRS.items():
        axes = [axis for axis in SHORT if axis in pair]
        settings = {AXIS_SETTINGS[axis]: 2 for axis in axes}
        pairs[" x ".join(SHORT[axis] for axis in axes)] = settings, reason
    scheduled: dict[str, Any] = {**PIPELINE, **TENSOR, "pipeline_schedule": "zero_bubble"}
    pairs["PP with zero_bubble x TP"] = scheduled, ZERO_BUBBLE
    for strategy, name in (("ddp", "DDP"), ("deepspeed", "DeepSpeed ZeRO")):
        for axis, short in SHORT.items():
            asked: dict[str, Any] = {"strategy": strategy, AXIS_SETTINGS[axis]: 2}
            pairs[f"{short} x {name}"] = asked, f"with strategy {strategy}"
    return pairs


def markdown() -> str:
    """Write the table of the page."""
    lines = ["| axes | `parallelism` | ranks | tested with |", "|---|---|--:|---|"]
    for combination in WORKS:
        size = next(iter(combination.cases.values())).world_size
        written = _written(combination.parallelism)
        families = ", ".join(map(_shown, combination.families))
        lines.append(f"| {combination.name} | `{written}` | {size} | {families} |")
    lines += ["", "| refused | why |", "|---|---|"]
    reasons: dict[str, list[str]] = {}
    for name, (_, reason) in refused().items():
        reasons.setdefault(_why(reason), []).append(name)
    lines += [f"| {', '.join(names)} | {why} |" for why, names in reasons.items()]
    return "\n".join(lines)


def _shown(family: str) -> str:
    return "our llama" if family == OURS else family


def _why(reason: str) -> str:
    if not reason.startswith("with strategy"):
        return reason
    return "only FSDP2's parameters can be cut along further axes; the message names the setting"


def _written(parallelism: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {json.dumps(value)}" for name, value in parallelism.items())


def page_with_table(page: str) -> str:
    """Return a page whose marked part is the table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{after}"


def main() -> None:
    """Write the page."""
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page_with_table(PAGE.read_text()))
    else:
        sys.stdout.write(markdown() + "\n")


if __name__ == "__main__":
    main()
