"""Which stages may be started: those whose needs are done, or are started before them."""

from collections.abc import Sequence

from distrain.errors import PreflightError
from distrain.runs.records import is_done
from launcher.plan import Plan, StagePlan
from launcher.run_files import name_of


def check_needs(plan: Plan, stages: Sequence[StagePlan]) -> None:
    """Refuse a selection of stages that leaves out one that is needed and not done.

    Raises:
        PreflightError: Names the stage that is missing.
    """
    selected = {stage.name for stage in stages}
    for stage in stages:
        for need in stage.needs:
            if need not in selected and not is_done(plan.run, need):
                raise PreflightError(
                    f"stage {stage.name}",
                    f"that it needs stage {need}, which is not done",
                    "every needed stage done or selected",
                    f"Run it first: `distrain resume {name_of(plan.run)} --only {need}`.",
                )
