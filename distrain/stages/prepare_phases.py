"""One phase of a prepare stage in a process of its own, as the jobs of an array do it.

What they do only saves time: the stage itself, run last, makes all that they left undone. So none
of them waits for another, and what one is asked for too early, or by other settings, it leaves
alone. The plan is made, and old work removed, only by phases that run alone.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from distrain.config.recipe import PrepareStage
from distrain.data.corpus.plan import InputPlan, load_plan
from distrain.data.corpus.work_folder import WorkFolder
from distrain.runs.folder import StageFolder
from distrain.runs.lock import ORPHAN_PATIENCE_S, acquire
from distrain.runs.phases import SHARED_PHASES, Phase, Share
from distrain.stages.prepare import (
    decide,
    digest_of_settings,
    find_finished,
    open_plan,
    pipeline_of,
    targets_of,
)
from distrain.stages.prepare_tokens import look_at_sources

log = logging.getLogger(__name__)


@contextmanager
def phase_lock(
    folder: StageFolder,
    run: str,
    phase: Phase,
    share: Share,
    patience_s: float = ORPHAN_PATIENCE_S,
) -> Iterator[None]:
    """Keep off others that would write the same ranges.

    A share is held by one process, so that a task that was started again waits for a straggler of
    its last start; the stage is held by all shares together, or by one process alone.

    Raises:
        PreflightError: Another living process is at work there.
    """
    is_shared = phase in SHARED_PHASES
    held = [acquire(folder.lock, run, patience_s, shared=is_shared)]
    try:
        if is_shared:
            name = f"{phase}_{share.index}_of_{share.count}"
            held.append(acquire(WorkFolder(folder.work).locks / name, run, patience_s))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def run_phase(stage: PrepareStage, folder: StageFolder, phase: Phase, share: Share) -> bool:
    """Do a phase, or a share of one over ranges, as far as it is not done.

    Returns:
        False if what it builds on is not there.

    Raises:
        DataError: As the stage itself would.
    """
    if phase == "plan":
        look_at_sources(stage, folder)  # what is wrong with them is known now, not at the end
        open_plan(stage, folder)
        return True
    if phase == "decide":
        _decide(stage, folder)
        return True
    plan = load_plan(folder.plan)
    if plan is None or plan.settings != digest_of_settings(stage):
        log.warning("%s: no plan of these settings; nothing to do", folder.plan)
        return False
    if phase == "encode":
        return _encode_share(stage, folder, plan, share)
    with pipeline_of(stage, folder, plan, share) as pipeline:
        pipeline.clean_share(share)
    return True


def _decide(stage: PrepareStage, folder: StageFolder) -> None:
    """Clean what is left, then settle everything up to the choice of the engine."""
    plan = open_plan(stage, folder)
    finished = find_finished(stage, folder)
    if finished.keys() >= set(targets_of(stage)):
        return
    with pipeline_of(stage, folder, plan) as pipeline:
        decide(pipeline, pipeline.clean(), finished)


def _encode_share(stage: PrepareStage, folder: StageFolder, plan: InputPlan, share: Share) -> bool:
    finished = find_finished(stage, folder)
    if finished.keys() >= set(targets_of(stage)):
        return True
    numbers = range(len(plan.ranges))
    with pipeline_of(stage, folder, plan, share) as pipeline:
        cleaned = pipeline.load_cleaned(numbers)
        if len(cleaned) < len(numbers) or not pipeline.is_decided():
            log.warning("%s: not all is cleaned and decided; nothing to do", folder.work)
            return False
        records = [cleaned[number] for number in numbers]
        decided = decide(pipeline, records, finished)
        pipeline.encode(decided.settings, records, share)
    return True
