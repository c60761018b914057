import json
import math
from dataclasses import replace

import pytest

from distrain.config.best import EarlyStopping, KeepBest
from distrain.errors import TrainingError
from distrain.monitor.step_result import StepResult
from distrain.parallel.engine import may_apply
from distrain.runs.records import json_text
from distrain.train.progress import Progress

START = Progress()


def step(loss=2.0, norm=1.0):
    return StepResult(
        loss,
        learning_rate=1e-3,
        grad_norm=norm,
        applied=may_apply(loss, norm),
        first_sample=0,
        num_samples=8,
        num_tokens=512,
        num_targets=500,
        batch_hash=1,
        memory_gib=0.5,
    )


def test_a_step_that_was_not_applied_still_uses_up_its_samples():
    result = step(loss=math.nan)
    assert not result.applied
    assert Progress(step=3).after(result).step == 4


@pytest.mark.parametrize(("loss", "norm"), [(2.0, math.inf), (math.inf, 1.0), (math.nan, 1.0)])
def test_an_update_needs_a_finite_loss_and_a_finite_norm(loss, norm):
    assert may_apply(2.0, 1.0)
    assert not may_apply(loss, norm)


def test_steps_that_are_not_applied_are_counted_in_a_row():
    progress = Progress()
    for loss, count in ((math.nan, 1), (math.inf, 2), (2.0, 0), (math.nan, 1)):
        progress = progress.after(step(loss))
        assert progress.skipped_in_a_row == count


@pytest.mark.parametrize(("allowed", "max_steps", "fails_at"), [(3, 50, 3), (20, 4, 4), (1, 9, 1)])
def test_too_many_of_them_or_all_of_a_short_stage_end_it(allowed, max_steps, fails_at):
    progress = Progress()
    for _ in range(fails_at - 1):
        progress = progress.after(step(math.nan))
        progress.check_applied(step(math.nan), allowed, max_steps)
    progress = progress.after(step(math.nan))
    with pytest.raises(TrainingError, match=rf"steps 1 to {fails_at}.*learning_rate"):
        progress.check_applied(step(math.nan), allowed, max_steps)


def validated(*losses, progress=START, **watching):
    for loss in losses:
        progress = progress.after_validation({"loss": loss}, "loss", **watching)
    return progress


def test_a_validation_that_is_not_finite_is_never_the_best():
    progress = validated(math.nan, math.inf)
    assert (progress.best_eval_loss, progress.evals_since_best) == (None, 2)
    assert validated(3.0, progress=progress).best_eval_loss == 3.0


def test_early_stopping_waits_for_patience_measurements():
    early, progress = EarlyStopping(patience=2), Progress()
    for loss, stale in ((3.0, False), (2.0, False), (2.5, False), (2.1, True)):
        progress = validated(loss, progress=progress)
        assert progress.is_stale(early) is stale
    assert progress.best_eval_loss == 2.0


def test_an_improvement_below_min_delta_does_not_count():
    progress = validated(2.0, 1.95, early=EarlyStopping(min_delta=0.1))
    assert progress.evals_since_best == 1
    assert progress.best_eval_loss == 1.95


def test_no_early_stopping_never_stops():
    assert not Progress(evals_since_best=99).is_stale(None)


def test_it_survives_a_checkpoint():
    progress = validated(1.5, progress=Progress().after(step()).after(step(norm=math.inf)))
    assert progress.skipped_in_a_row == 1
    read = Progress.from_json(json.loads(json_text(progress.to_json())))
    assert replace(read, ledger=progress.ledger) == progress


def test_what_an_older_version_saved_is_read():
    saved = '{"step": 7, "tokens_seen": 9, "train_loss": NaN, "best_eval_loss": NaN}'
    progress = Progress.from_json(json.loads(saved))
    assert progress == Progress(step=7, tokens_seen=9)
    assert validated(2.0, progress=progress).best_eval_loss == 2.0


def test_early_stopping_goes_on_with_the_best_loss_of_an_older_version():
    progress = Progress.from_json({"step": 7, "best_eval_loss": 2.0, "evals_since_best": 1})
    assert validated(2.1, progress=progress).evals_since_best == 2


def test_early_stopping_may_watch_a_source_or_what_should_grow():
    early, progress = EarlyStopping(metric="accuracy/web", mode="max"), Progress()
    for accuracy, count in ((0.5, 0), (0.6, 0), (0.4, 1), (0.7, 0)):
        found = {"loss": 3.0 + accuracy, "accuracy/web": accuracy}
        progress = progress.after_validation(found, "loss", early)
        assert progress.evals_since_best == count
    assert progress.best_eval_loss == 3.4


def test_the_best_checkpoint_is_that_of_the_best_validation_after_a_step():
    progress, best = Progress(), []
    for number, loss in enumerate((1.0, 3.0, math.nan, 2.0, 2.5, 2.0)):
        progress = validated(loss, progress=replace(progress, step=number), keep_best=KeepBest())
        best.append((progress.best_step, progress.best_value))
    # Of equal ones the first; the model before the first step is no checkpoint.
    assert best == [(None, None), (1, 3.0), (1, 3.0), (3, 2.0), (3, 2.0), (3, 2.0)]


def test_a_task_that_is_asked_at_every_second_validation_fails_to_improve_only_then():
    metric = "tasks/made/acc"
    early = EarlyStopping(metric=metric, mode="max", patience=2)
    best = KeepBest(metric=metric, mode="max")
    progress, stale = Progress(step=1), []
    for loss, accuracy in ((3.0, 0.5), (2.0, None), (1.0, 0.4), (2.0, None), (2.5, 0.5)):
        found = {"loss": loss} | ({} if accuracy is None else {metric: accuracy})
        progress = replace(progress, step=progress.step + 1)
        progress = progress.after_validation(found, "loss", early, best)
        stale.append(progress.evals_since_best)
    assert stale == [0, 0, 1, 1, 2]
    assert progress.is_stale(early)
    assert (progress.best_step, progress.best_value) == (2, 0.5)
    # The loss is that of every validation.
    assert (progress.eval_loss, progress.best_eval_loss) == (2.5, 1.0)
