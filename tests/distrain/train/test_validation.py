"""What validation measures depends on the held-out text alone: not on ranks, nor on a restart."""

import json
import math

import pytest

from distrain.data.samples.held_out import Choice
from distrain.runs.json_lines import read_records
from distrain.stages.training import close
from distrain.train.loop import train
from tests.distrain.train.synthetic import SyntheticDataset, make_run, make_stage
from tests.ranks import run_ranks

SIZES = {"code": 11, "web": 29}
EVAL: dict[str, object] = {"eval_steps": 4, "max_batches": 2}  # 16 of 40 samples


def two_sources():
    return {"code": SyntheticDataset(11), "web": SyntheticDataset(29, first=1000)}


def measure(folder, cases):
    """Measure the untrained model with each (name, stage); then as an older version would."""
    for name, stage in cases:
        run = make_run(folder / name, stage, held_out=two_sources())
        scores = run.validation.measure()
        run.validation.held_out.restore(None)
        older = run.validation.measure()
        close(run)
        if run.monitor is not None:
            figures = {
                "loss": scores.loss,
                "older": older.loss,
                "accuracy": scores.metrics["accuracy"],
                "bits_per_byte": scores.metrics["bits_per_byte"],
                **{k: v["loss"] for k, v in scores.by_source.items()},
                "accuracy of code": scores.by_source["code"]["accuracy"],
            }
            (folder / f"{name}.json").write_text(json.dumps(figures))
            assert set(older.by_source) == {"code", "web"}


def test_figures_are_the_same_at_every_world_size(tmp_path):
    for world_size, strategy, cut in ((1, "single", 8), (2, "fsdp", 2), (4, "ddp", 1)):
        stage = make_stage(strategy, micro_batch_size=cut, eval=EVAL)
        cases = [(f"on-{world_size}", stage)]
        run_ranks(tmp_path / f"ranks-{world_size}", world_size, measure, tmp_path, cases)
    one, two, four = (json.loads((tmp_path / f"on-{n}.json").read_text()) for n in (1, 2, 4))
    assert two == pytest.approx(one, rel=0, abs=1e-12)
    assert four == pytest.approx(one, rel=0, abs=1e-12)
    # Each token of the synthetic text counts as three bytes.
    assert one["bits_per_byte"] == pytest.approx(one["loss"] / math.log(2) / 3)
    assert 0 < one["accuracy"] < 1
    assert one["accuracy"] != one["accuracy of code"]
    # Other samples give another figure: the ones above are not equal because all samples are.
    assert abs(one["older"] - one["loss"]) > 1e-6
    assert min(one["code"], one["web"]) < one["loss"] < max(one["code"], one["web"])


def begin_and_go_on(folder):
    first = make_stage(max_steps=4, checkpoint={"save_steps": 4}, eval=EVAL)
    run = make_run(folder / "begun", first, held_out=two_sources())
    train(run)
    close(run)
    # A larger global batch and a lower limit change neither number nor place of the samples.
    second = make_stage(
        max_steps=8,
        training={"global_batch_size": 16},
        eval={"eval_steps": 4, "max_batches": 7},
    )
    run = make_run(folder / "begun", second, held_out=two_sources())
    train(run)
    close(run)


def test_a_begun_stage_goes_on_measuring_what_it_has_measured(tmp_path):
    run_ranks(tmp_path / "ranks", 1, begin_and_go_on, tmp_path)
    folder = tmp_path / "begun" / "pretrain"
    choice = Choice.made(SIZES, 16)
    assert json.loads((folder / "data.json").read_text())["validation"] == choice.to_json()
    scores = [r for r in read_records(folder / "metrics.jsonl") if "eval/loss" in r]
    assert [record["train/global_step"] for record in scores] == [0, 4, 8]
    for record in scores:
        parts = [record[f"eval/loss/{name}"] for name in SIZES]
        assert min(parts) < record["eval/loss"] < max(parts)
