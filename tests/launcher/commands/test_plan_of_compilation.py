"""What the plan says of compiled blocks, and where they are refused."""

import json

import pytest

from distrain.runs.records import read_json
from tests.distrain.train.synthetic import make_run, make_stage
from tests.launcher.small_run import write_recipe

pytestmark = pytest.mark.usefixtures("runs_dir")


@pytest.mark.parametrize(("chosen", "compiles"), [("auto", False), ("true", True)])
def test_the_plan_says_whether_blocks_are_compiled(distrain, tmp_path, chosen, compiles):
    arguments = ("plan", str(write_recipe(tmp_path)), f"training.compile={chosen}")
    assert ("pretrain compiles each block" in distrain(*arguments)[1]) == compiles
    document = json.loads(distrain(*arguments, "--json")[1])
    stages = {stage["stage"]: stage["compile"] for stage in document["result"]["stages"]}
    assert (stages["prepare"], stages["pretrain"]) == (None, compiles)


def test_deepspeed_does_not_compile(distrain, tmp_path):
    more = ("training.compile=true", "parallelism.strategy=deepspeed")
    code, _, err = distrain("plan", str(write_recipe(tmp_path)), *more)
    assert code == 3
    assert "training.compile" in err
    assert "set compile to false, or strategy to fsdp" in " ".join(err.split())


def test_a_stage_writes_down_the_choice(tmp_path):
    make_run(tmp_path, make_stage()).engine.close()
    written = read_json(next(tmp_path.rglob("environment.json")))
    assert written is not None
    assert written["compile"] is False
