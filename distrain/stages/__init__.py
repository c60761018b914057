"""The five kinds of stage, one file each, and `generate`: what ``python -m distrain`` starts."""

from collections.abc import Callable

from distrain.stages.context import Outcome, StageContext

StageBody = Callable[[StageContext], Outcome]


def stage_body(kind: str) -> StageBody:
    """Return what runs a stage of ``kind``; imports only what that kind needs."""
    if kind == "prepare":
        from distrain.stages.prepare import run_stage
    elif kind == "pretrain":
        from distrain.stages.pretrain import run_stage
    elif kind == "sft":
        from distrain.stages.sft import run_stage
    elif kind == "evaluate":
        from distrain.stages.evaluate import run_stage
    else:
        from distrain.stages.export import run_stage
    return run_stage
