import json
import math

import pytest

from distrain.config.training import EarlyStopping
from distrain.errors import TrainingError
from distrain.monitor.step_result import StepResult
from distrain.parallel.engine import may_apply
from distrain.runs.records import json_text
from distrain.train.progress import Progress


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


def test_a_validation_that_is_not_finite_is_never_the_best():
    progress = Progress().after_validation(math.nan).after_validation(math.inf)
    assert (progress.best_eval_loss, progress.evals_since_best) == (None, 2)
    assert progress.after_validation(3.0).best_eval_loss == 3.0


def test_early_stopping_waits_for_patience_measurements():
    early, progress = EarlyStopping(patience=2), Progress()
    for loss, stale in ((3.0, False), (2.0, False), (2.5, False), (2.1, True)):
        progress = progress.after_validation(loss)
        assert progress.is_stale(early) is stale
    assert progress.best_eval_loss == 2.0


def test_an_improvement_below_min_delta_does_not_count():
    progress = Progress().after_validation(2.0, 0.1).after_validation(1.95, 0.1)
    assert progress.evals_since_best == 1


def test_no_early_stopping_never_stops():
    assert not Progress(evals_since_best=99).is_stale(None)


def test_it_survives_a_checkpoint():
    progress = Progress().after(step()).after(step(norm=math.inf)).after_validation(1.5)
    assert progress.skipped_in_a_row == 1
    assert Progress.from_json(json.loads(json_text(progress.to_json()))) == progress


def test_what_an_older_version_saved_is_read():
    saved = '{"step": 7, "tokens_seen": 9, "train_loss": NaN, "best_eval_loss": NaN}'
    progress = Progress.from_json(json.loads(saved))
    assert progress == Progress(step=7, tokens_seen=9)
    assert progress.after_validation(2.0).best_eval_loss == 2.0
