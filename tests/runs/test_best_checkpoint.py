"""Stages build on the best checkpoint of another, or on one by its number; kills change nothing."""

import json
import shutil

import pytest

from distrain.config.reading.load import load_recipe
from distrain.errors import PreflightError
from distrain.runs.folder import RunFolder
from distrain.runs.products import check_sources
from tests.runs.forked import finish, kill_after_first_save
from tests.tiny import exact_records, tensor_digests, write_recipe

# The largest loss is that of the first validation: the best is not the last, whatever is learned.
EXTRA = (
    "pretrain.checkpoint.keep_last=1",
    "pretrain.checkpoint.keep_best={metric: loss, mode: max}",
    "pretrain.eval.eval_steps=6",
    "sft.from_checkpoint=best",
    "export.from_checkpoint=5",
    "launch.processes_per_node=1",
)


def read(path):
    return json.loads(path.read_text())


def names(run, stage):
    return sorted(path.name for path in (run / stage / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    recipe = load_recipe(write_recipe(folder), list(EXTRA)).recipe
    finish(recipe, folder / "tiny", "prepare", "pretrain", "sft", "export")
    return recipe, folder / "tiny"


def test_the_best_checkpoint_is_kept_and_built_on(finished):
    _, run = finished
    best = read(run / "pretrain" / "result.json")["best"]
    records = exact_records(run, "pretrain")
    losses = {
        record["train/global_step"]: record["eval/loss"]
        for record in records
        if "eval/loss" in record
    }
    assert (best["step"], best["metric"], best["value"]) == (6, "loss", losses[6])
    assert names(run, "pretrain") == ["step_000006", "step_000020"]
    built_on = read(run / "sft" / "built_on.json")["pretrain"]
    assert built_on == {"step": 6, "product": best["product"], "from_checkpoint": "best"}
    last = read(run / "pretrain" / "result.json")["checkpoint"]["product"]
    assert last != best["product"]


def test_a_step_by_its_number_is_exported(finished):
    _, run = finished
    assert names(run, "sft") == ["step_000005", "step_000010"]
    assert read(run / "export" / "built_on.json")["sft"]["step"] == 5
    # The line below it is that of the stage it came from: also there the best.
    assert read(run / "export" / "built_on.json")["pretrain"]["step"] == 6


def test_killed_between_the_best_and_the_end_the_same_is_best(finished, tmp_path):
    recipe, twin = finished
    run = tmp_path / "tiny"
    shutil.copytree(twin / "prepare", run / "prepare")
    kill_after_first_save(recipe, run, "pretrain")
    finish(recipe, run, "pretrain")
    found, expected = (read(each / "pretrain" / "result.json") for each in (run, twin))
    assert found["best"] == expected["best"]
    assert tensor_digests(run, "pretrain") == tensor_digests(twin, "pretrain")
    assert names(run, "pretrain") == names(twin, "pretrain")


def test_another_best_than_the_one_built_on_is_refused(finished, tmp_path):
    _, twin = finished
    run = tmp_path / "tiny"
    shutil.copytree(twin, run)
    result = read(run / "pretrain" / "result.json")
    result["best"]["product"] = "0" * len(result["best"]["product"])
    (run / "pretrain" / "result.json").write_text(json.dumps(result))
    with pytest.raises(PreflightError, match="was built on step 6"):
        check_sources(RunFolder(run), "sft")
    # Control: the same stage, had it been built on the last checkpoint, is not concerned.
    built_on = run / "sft" / "built_on.json"
    built_on.write_text(json.dumps({"pretrain": result["checkpoint"]}))
    check_sources(RunFolder(run), "sft")
