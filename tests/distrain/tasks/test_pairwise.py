"""A task unlike the real one, trained, validated, cut and resumed under every engine."""

from dataclasses import replace

import pytest
import torch

from distrain.checkpoint.dcp import read_full
from distrain.fault.wishes import Wish
from distrain.tasks.task import TaskSums
from distrain.train.loop import train
from tests.distrain.tasks import pairwise
from tests.distrain.tasks.by_engine import records, runs_by_engine
from tests.distrain.train.synthetic import ENGINES, SyntheticDataset, make_run, make_stage
from tests.distrain.train.test_resume import close, yield_at
from tests.ranks import run_ranks

NAMES = ("train/preference", "train/agreement", "eval/preference", "eval/agreement")
EXACT = ("train/global_step", "train/grad_norm", "data/batch_hash", *NAMES)
STEPS = 8


def stage_of(engine, **changes):
    return make_stage(
        precision="fp32",
        max_steps=STEPS,
        training={"task": pairwise.NAME},
        parallelism=ENGINES[engine],
        checkpoint={"save_steps": 3},
        eval={"eval_steps": 4},
        **changes,
    )


def two_sources():
    return {"code": SyntheticDataset(5), "web": SyntheticDataset(9, first=1000)}


def whole_then_cut(folder, engine):
    """Train once without a break, once with a yield and lost steps in between."""
    pairwise.register()
    whole = make_run(folder / "whole", stage_of(engine), held_out=two_sources())
    assert train(whole)[1] is Wish.NONE
    close(whole)
    first = make_run(folder / "cut", stage_of(engine), held_out=two_sources())
    yield_at(first, folder / "cut", 5)
    close(first)
    (folder / "cut" / "control" / "yield").unlink(missing_ok=True)
    last = make_run(folder / "cut", stage_of(engine), held_out=two_sources())
    assert train(last)[1] is Wish.NONE
    close(last)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of an engine's two runs."""
    return runs_by_engine(tmp_path_factory.mktemp, whole_then_cut)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(engine, marks=() if engine in ("single", "fsdp") else pytest.mark.seams)
        for engine in ENGINES
    ],
)
def test_it_trains_and_resumes_bit_by_bit_and_equals_one_process(trained, engine):
    folder = trained(engine)
    whole = records(folder / "whole", EXACT)
    assert records(folder / "cut", EXACT) == whole
    steps = [record for record in whole if "train/preference" in record]
    scores = [record for record in whole if "eval/preference" in record]
    assert (len(steps), len(scores)) == (STEPS, 3)
    sources = {f"eval/{m}/{s}" for m in ("preference", "agreement") for s in ("code", "web")}
    assert sources | {"eval/preference", "eval/agreement"} <= scores[0].keys()
    assert "eval/perplexity" not in scores[0]
    assert scores[-1]["eval/preference"] < scores[0]["eval/preference"]
    states = [
        read_full(folder / name / "pretrain" / "checkpoints" / f"step_{STEPS:06}", prefix="")
        for name in ("whole", "cut")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(tensor.equal(states[1][name]) for name, tensor in states[0].items())
    for found, expected in zip(whole, records(trained("single") / "whole", EXACT), strict=True):
        assert found == pytest.approx(expected, rel=2e-4, abs=1e-6)


class MeanOfMeans(pairwise.PairwiseTask):
    """Divides what each rank has by its own denominators, and takes the mean over the ranks."""

    def denominators(self, microbatch):
        return [1.0] * len(microbatch.groups)

    def measure(self, module, microbatch):
        own = torch.tensor(super().denominators(microbatch))
        found = super().measure(module, microbatch)
        others = {name: (n / d, torch.ones_like(d)) for name, (n, d) in found.others.items()}
        return TaskSums(found.trained / own, others)


def honest_then_means(folder):
    """Train with the task as it is, and as it must not be; one microbatch a rank and step."""
    pairwise.register()
    stage = stage_of("ddp", micro_batch_size=4)
    for name, task in (("honest", pairwise.PairwiseTask()), ("means", MeanOfMeans())):
        run = make_run(folder / name, stage)
        train(replace(run, task=task))
        close(run)


def test_a_metric_is_a_quotient_of_sums_over_all_ranks_and_no_mean_of_means(trained, tmp_path):
    run_ranks(tmp_path / "ranks", 2, honest_then_means, tmp_path)
    names = ("train/preference", "train/agreement", "train/grad_norm")
    one, honest, means = (
        [r for r in records(folder, names) if r]
        for folder in (trained("single") / "whole", tmp_path / "honest", tmp_path / "means")
    )
    assert [r.keys() for r in honest] == [set(names)] * STEPS
    for found, expected in zip(honest, one, strict=True):
        assert found == pytest.approx(expected, rel=2e-4, abs=1e-6)
    # The control: means of the ranks weigh a target of a rank that has few too heavily.
    for name in names:
        wrong = [
            abs(found[name] / right[name] - 1) for found, right in zip(means, one, strict=True)
        ]
        assert max(wrong) > 2e-3, name
