"""What the plan says of attention, and what a stage writes down of it, is one choice."""

import json

import pytest

from distrain.runs.records import read_json
from tests.distrain.train.synthetic import make_run, make_stage
from tests.launcher.small_run import write_recipe

pytestmark = pytest.mark.usefixtures("runs_dir")


def planned(distrain, tmp_path, *overrides):
    recipe = str(write_recipe(tmp_path))
    code, out, err = distrain("plan", recipe, *overrides)
    assert code == 0, err
    document = json.loads(distrain("plan", recipe, "--json", *overrides)[1])
    stages = {stage["stage"]: stage for stage in document["result"]["stages"]}
    return " ".join(out.split()), stages


def test_the_kernel_of_each_device_that_a_stage_may_get_is_shown(distrain, tmp_path):
    text, stages = planned(distrain, tmp_path, "training.device=auto")
    assert (
        "pretrain attends by sdpa on a CPU (rows of one document: sdpa), "
        "varlen on a GPU (rows of one document: sdpa)." in text
    )
    assert stages["pretrain"]["attention"]["cuda"]["divided_rows"] == "varlen"
    assert stages["prepare"]["attention"] == {}


def test_precision_and_dropout_take_part_in_the_choice(distrain, tmp_path):
    more = ("training.device=cpu", "model.attention_dropout=0.1")
    text, stages = planned(distrain, tmp_path, *more)
    assert "pretrain attends by softmax on a CPU" in text
    assert [*stages["pretrain"]["attention"]] == ["cpu"]
    more = ("training.device=cuda", "training.precision=fp32")
    assert "attends by sdpa on a GPU" in planned(distrain, tmp_path, *more)[0]


def test_a_stage_writes_down_what_it_computes_on(tmp_path):
    run = make_run(tmp_path, make_stage())
    run.engine.close()
    written = read_json(next(tmp_path.rglob("environment.json")))
    assert written is not None
    assert (written["device"], written["precision"]) == ("cpu", "fp64")
    assert written["attention"] == {"divided_rows": "sdpa", "whole_rows": "sdpa"}
