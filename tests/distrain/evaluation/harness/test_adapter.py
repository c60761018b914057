"""Each answer to ``lm_eval`` is that of the library's own model, request by request."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest

from distrain.config.harness import HarnessConfig
from distrain.evaluation.harness import tasks
from distrain.evaluation.harness.opening import open_folder
from distrain.evaluation.harness.tasks import run_tasks
from tests.distrain.evaluation.harness.made import QUESTIONS, TASKS, write_model, write_tasks

pytestmark = pytest.mark.models


@pytest.fixture(scope="module", params=[False, True], ids=["without BOS", "with BOS"])
def models(request, tmp_path_factory):
    from lm_eval.models.huggingface import HFLM

    folder = write_model(tmp_path_factory.mktemp("model") / "made", has_bos=request.param)
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=3)
    return open_folder(folder, batch_tokens=70), theirs


def instances(kind: str, arguments: Sequence[tuple]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


LONG = "A rose is red and two are four. " * 20
PAIRS = [
    *[(row["question"], choice) for row in QUESTIONS for choice in row["choices"]],
    ("", "Paris"),
    (LONG, " red"),
    ("A rose is  ", "red"),
    ("<s>A rose", " is"),
]


def test_log_likelihoods_and_greediness(models):
    ours, theirs = models
    found = ours.loglikelihood(instances("loglikelihood", PAIRS))
    expected = theirs.loglikelihood(instances("loglikelihood", PAIRS))
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert len({round(score, 3) for score, _ in found}) > len(PAIRS) // 2


def test_a_greedy_continuation_is_known_as_one(models):
    _, theirs = models
    (text,) = theirs.generate_until(
        instances("generate_until", [("Two and", {"max_gen_toks": 3, "until": []})])
    )
    pair = [("Two and", text)]
    found, expected = (m.loglikelihood(instances("loglikelihood", pair)) for m in models)
    assert found[0][1] == expected[0][1]


def test_rolling_windows(models):
    ours, theirs = models
    asked = instances("loglikelihood_rolling", [(LONG,), ("Two and two are four.",)])
    assert ours.loglikelihood_rolling(asked) == pytest.approx(
        theirs.loglikelihood_rolling(asked), abs=1e-3
    )


def test_written_answers(models):
    settings = {"until": [".", "\n\n"], "max_gen_toks": 12, "do_sample": False}
    asked = [(row["question"], dict(settings)) for row in QUESTIONS] + [(LONG, dict(settings))]
    found, expected = (m.generate_until(instances("generate_until", asked)) for m in models)
    assert found == expected
    assert any(found)


@pytest.mark.parametrize("settings", [{}, {"num_fewshot": 2}, {"chat_template": True}])
def test_figures_of_tasks(models, settings, tmp_path):
    config = HarnessConfig(
        tasks=tuple(TASKS), include_path=str(write_tasks(tmp_path / "tasks")), **settings
    )
    ours, theirs = (run_tasks(model, config, "evaluate.harness") for model in models)
    assert ours.keys() == set(TASKS)
    for task, figures in theirs.items():
        assert ours[task] == pytest.approx(figures, abs=1e-4, rel=1e-5)


def test_the_library_says_nothing(models, tmp_path, capfd, monkeypatch):
    config = HarnessConfig(
        tasks=("made_choice",), include_path=str(write_tasks(tmp_path / "tasks")), limit=1
    )
    monkeypatch.chdir(tmp_path)  # no repository, of which git complains
    ours = run_tasks(models[0], config, "evaluate.harness")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(tasks, "quietly", nullcontext)
    assert run_tasks(models[0], config, "evaluate.harness") == ours
    assert "not a git repository" in capfd.readouterr().err
