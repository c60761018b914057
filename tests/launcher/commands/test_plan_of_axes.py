"""The plan shows who holds what, and warns of neighbours on several nodes."""

import json

import pytest

from distrain.config.layout import MODEL_AXES
from tests.launcher.small_run import RECIPE, write_recipe

pytestmark = pytest.mark.usefixtures("runs_dir")


@pytest.fixture(autouse=True)
def _every_axis_is_built(monkeypatch):
    monkeypatch.setattr("distrain.config.layout.BUILT_AXES", frozenset(MODEL_AXES))


NODES = ("launch.backend=torchrun", "launch.nodes=2", "launch.rendezvous=node01:29500")
TENSORS = ("pretrain.parallelism.tensor_parallel=2",)


def recipe_with_a_model(folder):
    model = "    model: {num_attention_heads: 4}\n"
    return str(
        write_recipe(folder, RECIPE.replace("    training: {max", model + "    training: {max"))
    )


def test_the_plan_says_what_each_rank_holds(distrain, tmp_path):
    arguments = ("plan", recipe_with_a_model(tmp_path), *TENSORS, "launch.processes_per_node=4")
    text = distrain(*arguments)[1]
    assert "fsdp 1 x 2, tensor 2" in text
    assert "2 = 1 x 2 x 1" in text
    assert "shard, tensor within a node" in " ".join(text.split())
    stages = json.loads(distrain(*arguments, "--json")[1])["result"]["stages"]
    held = {stage["stage"]: stage["holdings"] for stage in stages}
    assert held["prepare"] is None
    assert held["pretrain"]["axes"] == {"replicate": 1, "shard": 2, "tensor": 2}
    assert held["pretrain"]["across_nodes"] == []
    assert {"what": "heads", "along": {"tensor": 2}, "parts": ["0-1", "2-3"]} in held["pretrain"][
        "divided"
    ]


@pytest.mark.parametrize("command", ["plan", "validate"])
def test_tensors_on_several_nodes_are_warned_of(distrain, tmp_path, command):
    arguments = (command, recipe_with_a_model(tmp_path), *TENSORS, *NODES)
    text = " ".join(distrain(*arguments, "launch.processes_per_node=1")[1].split())
    assert "note: pretrain: ranks of tensor_parallel 2 lie on several nodes of 1 process," in text
    assert "several nodes" not in distrain(*arguments, "launch.processes_per_node=2")[1]
