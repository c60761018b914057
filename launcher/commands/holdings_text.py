"""What ``plan`` shows of ranks along several axes: who holds what, and where they sit."""

from typing import Any

from distrain.config.recipe import Recipe, TrainStage
from launcher.estimate import stage_model, stage_vocab_size
from launcher.holdings import Holding, axes_across_nodes, holdings_of, placement_note, sitting
from launcher.plan import Plan, StagePlan
from launcher.text import WIDTH, table, wrapped

HEADER = ("DIVIDED", "ALONG", "PARTS, RANK BY RANK")


def holdings_text(recipe: Recipe, plan: Plan) -> list[str]:
    """Show what each rank holds, a table a stage; nothing of stages that FSDP2 alone cuts."""
    lines = []
    for stage in plan.stages:
        found = _holdings(recipe, stage)
        if not found or stage.layout is None:
            continue
        rows = [(holding.what, holding.over, holding.shown) for holding in found]
        order = " x ".join(f"{axis.name} {axis.size}" for axis in stage.layout.axes)
        where = sitting(stage.layout, stage.processes_per_node)
        sentence = (
            f"{stage.name} has its ranks along {order}; the last of these counts fastest: {where}."
        )
        lines += [wrapped(sentence), table(HEADER, rows, WIDTH), ""]
    return lines


def placement_notes(plan: Plan) -> list[str]:
    """Warn of stages whose neighbouring ranks lie on several nodes."""
    notes = (
        placement_note(stage.name, stage.layout, stage.nodes, stage.processes_per_node)
        for stage in plan.stages
        if stage.layout is not None
    )
    return [note for note in notes if note is not None]


def holdings_json(recipe: Recipe, stage: StagePlan) -> dict[str, Any] | None:
    """Return the same for JSON; ``None`` for stages that FSDP2 alone cuts."""
    found = _holdings(recipe, stage)
    if not found or stage.layout is None:
        return None
    return {
        "axes": {axis.name: axis.size for axis in stage.layout.axes},
        "across_nodes": axes_across_nodes(stage.layout, stage.processes_per_node),
        "divided": [
            {"what": holding.what, "along": dict(holding.axes), "parts": list(holding.parts)}
            for holding in found
        ],
    }


def _holdings(recipe: Recipe, stage: StagePlan) -> list[Holding]:
    section = recipe.stages[stage.name]
    if stage.layout is None or not isinstance(section, TrainStage):
        return []
    if not stage.layout.has_axes:
        return []  # nothing need be asked of the model
    model, vocab_size = stage_model(recipe, stage.name), stage_vocab_size(recipe, stage.name)
    return holdings_of(section, stage.layout, model, vocab_size)
