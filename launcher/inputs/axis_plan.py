"""Whether the plan of what tensor parallelism cuts can be carried out, as far as names are known.

The runtime, which has the layers themselves, asks again where it cuts them.
"""

import re
from collections.abc import Iterator

from distrain.config.models import ModelConfig
from distrain.config.models.tensor_plan import (
    PLAN_EXAMPLE,
    TENSOR_STYLES,
    open_ends,
    plan_of,
    unknown_styles,
)
from distrain.config.models.transformers.table import family_table
from distrain.config.reading.stage_parts import Finding
from launcher.inputs.cut_stage import CutStage

SETTING = "parallelism.tp_plan"


def check_plan(cut: CutStage) -> Iterator[Finding]:
    """Tensor parallel: each family says how its layers are cut, or the recipe does."""
    if "tensor" not in cut.degrees or cut.model is None:
        return
    plan, family = plan_of(cut.model, cut.stage.parallelism.tp_plan), cut.model.family_name
    if not plan:
        yield cut.finding(
            "parallelism.tensor_parallel",
            f"{cut.degrees['tensor']} for {family}, which declares no plan of what to cut",
            f"a plan, or 1; styles are {', '.join(TENSOR_STYLES)}",
            f"write one as {SETTING}: {PLAN_EXAMPLE}, with the names of the family's layers",
        )
    unknown = unknown_styles(plan)
    if unknown:
        whose = "" if cut.stage.parallelism.tp_plan else f" in the plan of {family} itself"
        layers = [pattern for pattern, style in plan.items() if style in unknown]
        yield cut.finding(
            SETTING,
            f"style {' and '.join(unknown)}{whose}, of {' and '.join(layers)}",
            f"one of {', '.join(TENSOR_STYLES)}",
            "write these layers with one of them, or leave them out, and they are held whole",
        )
    elif cut.stage.parallelism.tp_plan:
        yield from _own_plan(cut, cut.model)


def _own_plan(cut: CutStage, model: ModelConfig) -> Iterator[Finding]:
    """A plan of the recipe: it names layers, and those of one module together."""
    plan = cut.stage.parallelism.tp_plan
    family = family_table().families.get(model.family_name)
    known = set() if family is None else {*family.linear_layers, "experts"}
    lost = [
        pattern
        for pattern, style in plan.items()
        # Norms and tables have names of their own, which the table of families does not hold.
        if known and style.startswith(SIDES) and pattern.rpartition(".")[2] not in known
    ]
    if lost:
        yield cut.finding(
            SETTING,
            f"{' and '.join(lost)}, which no linear layer of {model.family_name} is called",
            f"names that end in {', '.join(sorted(known))}",
            f"write these names, or remove it, and the plan of {model.family_name} itself holds",
        )
        return
    for end in open_ends(plan, _linear_layers(model, plan)):
        yield cut.finding(
            SETTING,
            end,
            "all linear layers of a module: those that read its input as colwise, and the one "
            "that returns its output as rowwise",
            f"name them all, as in {PLAN_EXAMPLE}, or none",
        )
        return  # of other layers of the same kind it says the same


SIDES = ("colwise", "rowwise", "packed_")
"""How styles begin that cut a matrix."""


def _linear_layers(model: ModelConfig, plan: dict[str, str]) -> list[str]:
    """Name the layers that the family's own plan cuts, of all numbers that the recipe's names."""
    numbers = {"0", *re.findall(r"\.(\d+)\.", ".".join(["", *plan, ""]))}
    patterns = [
        pattern
        for pattern, style in plan_of(model, {}).items()
        if style.startswith(SIDES) and ".experts." not in pattern  # stacked: no layers
    ]
    return [pattern.replace("*", number) for number in sorted(numbers) for pattern in patterns]
