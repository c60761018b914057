"""What a task may call its metrics."""

import pytest

from distrain.config.tasks import Derived, Metric, TaskForm


def metric(name: str) -> Metric:
    return Metric(name, "nats", "target token")


def derived(name: str) -> Derived:
    return Derived(name, "loss", lambda loss: 2 * loss)


@pytest.mark.parametrize(
    ("trained", "others", "figures", "found"),
    [
        ("grad_norm", [], [], "grad_norm"),
        ("loss", ["grad_norm"], [], "grad_norm"),
        ("loss", ["loss"], [], "loss"),
        ("loss", ["margin"], ["margin"], "margin"),
        ("loss", ["margin/code"], [], "margin/code"),
    ],
)
def test_a_name_that_would_hide_another_figure_is_refused(trained, others, figures, found):
    with pytest.raises(ValueError, match=f"a metric named {found}"):
        TaskForm(metric(trained), tuple(map(metric, others)), tuple(map(derived, figures)))


def test_other_names_are_taken():
    assert TaskForm(metric("loss"), (metric("margin"),), (derived("twice"),)).num_sums == 3


def test_a_task_may_not_have_the_name_of_the_balancing_loss_where_experts_are_balanced():
    form = TaskForm(metric("loss"), (metric("margin"),))
    assert [m.name for m in form.with_balancing().others] == ["margin", "balancing_loss"]
    with pytest.raises(ValueError, match="a metric named balancing_loss"):
        form.with_balancing().with_balancing()
