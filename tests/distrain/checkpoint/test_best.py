"""The best checkpoint, and those that later stages name, stay however old they are."""

import pytest

from distrain.checkpoint.layout import Name
from distrain.checkpoint.retention import expired
from tests.distrain.checkpoint.states import cut, full_tensors, manager, names


def save(checkpoints, step, best=None):
    checkpoints.save(step, cut(full_tensors(step), "rows", 0, 1), {"step": step}, best)


@pytest.mark.parametrize("async_save", [True, False])
def test_the_best_stays_until_a_better_one_is_on_disk(tmp_path, async_save):
    checkpoints = manager(tmp_path, keep_last=1, async_save=async_save)
    left = []
    for step, best in ((5, 5), (10, 5), (15, 15), (20, 15)):
        save(checkpoints, step, best)
        checkpoints.wait()
        left.append(names(tmp_path / "checkpoints"))
    assert left == [
        ["step_000005"],
        ["step_000005", "step_000010"],
        ["step_000015"],
        ["step_000015", "step_000020"],
    ]
    product = checkpoints.best_product()
    assert product is not None
    assert product["step"] == 15
    assert product["product"]


def test_without_it_only_the_newest_stay(tmp_path):
    checkpoints = manager(tmp_path, keep_last=1)
    for step in (5, 10):
        save(checkpoints, step)
    checkpoints.wait()
    assert names(tmp_path / "checkpoints") == ["step_000010"]
    assert checkpoints.best_product() is None


def test_where_the_save_of_a_better_one_failed_the_best_of_before_stays(tmp_path, monkeypatch):
    checkpoints = manager(tmp_path, keep_last=1, async_save=False)
    save(checkpoints, 5, 5)
    with monkeypatch.context() as broken:
        broken.setattr("distrain.checkpoint.writing.write_commit", lambda *_: 1 / 0)
        save(checkpoints, 10, 10)
    save(checkpoints, 15, 10)
    assert names(tmp_path / "checkpoints") == ["step_000005", "step_000015"]
    assert checkpoints.kept.best_step == 5


def test_a_named_step_stays(tmp_path):
    checkpoints = manager(tmp_path, keep_last=1, keep_steps=(10,))
    for step in (5, 10, 15, 20):
        save(checkpoints, step)
    checkpoints.wait()
    assert names(tmp_path / "checkpoints") == ["step_000010", "step_000020"]


def test_of_a_step_that_stays_a_second_save_still_replaces_the_first():
    present = [Name(5), Name(5, 1), Name(10)]
    assert expired(present, present, 1, {5}) == [Name(5)]
