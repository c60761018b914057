"""The six kinds of stage, one file each: what ``python -m distrain`` starts."""

from collections.abc import Callable
from importlib import import_module

from distrain.garbage import no_collections
from distrain.stages.context import Outcome, StageContext

StageBody = Callable[[StageContext], Outcome]


STAGES = {
    "prepare": "distrain.stages.prepare",
    "pretrain": "distrain.stages.pretrain",
    "sft": "distrain.stages.sft",
    "preference": "distrain.stages.preference",
    "evaluate": "distrain.stages.evaluate",
    "export": "distrain.stages.export",
}
"""Kind -> module with a ``run_stage``; by name, because each imports what only that kind needs."""


def stage_body(kind: str) -> StageBody:
    """Return what runs a stage of ``kind``."""
    with no_collections():
        body: StageBody = import_module(STAGES[kind]).run_stage
    return body
