"""Who holds what of a model and a batch, and on which nodes ranks of a group lie."""

from typing import Any

import pytest

from distrain.config.axes import lay_out
from distrain.config.layout import MODEL_AXES, resolve_layout
from distrain.config.recipe import PretrainStage
from distrain.config.training import ParallelismConfig
from launcher.holdings import axes_across_nodes, holdings_of, placement_note, sitting
from tests.distrain.axes.families import model_section
from tests.distrain.train.synthetic import make_stage


@pytest.fixture(autouse=True)
def _every_axis_is_built(monkeypatch):
    monkeypatch.setattr("distrain.config.layout.BUILT_AXES", frozenset(MODEL_AXES))


SIZES = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 6}


def stage_of(family: str = "ours", **parallelism: Any) -> PretrainStage:
    training: dict[str, object] = {"sequence_length": 64, "global_batch_size": 8}
    model: dict[str, Any] = {} if family != "ours" else {**SIZES}
    stage = make_stage(micro_batch_size=1, training=training, parallelism=parallelism)
    return stage.model_copy(update={"model": model_section(family, **model)})


def layout_of(stage: PretrainStage, ranks: int):
    return lay_out(stage.parallelism, stage.training, ranks)[0]


def held(ranks: int, family: str = "ours", vocab_size: int | None = 121, **parallelism: Any):
    stage = stage_of(family, **parallelism)
    found = holdings_of(stage, layout_of(stage, ranks), stage.model, vocab_size)
    return {holding.what: (holding.over, holding.shown) for holding in found}


def test_a_tensor_axis_divides_heads_and_an_odd_vocabulary():
    assert held(4, tensor_parallel=2) == {
        "8 rows of a batch": ("shard 2", "0-3 | 4-7"),
        "heads": ("tensor 2", "0-3 | 4-7"),
        "heads of keys and values": ("tensor 2", "0-1 | 2-3"),
        "columns of a feed-forward layer": ("tensor 2", "0-47 | 48-95"),
        "rows of the vocabulary": ("tensor 2", "0-60 | 61-120"),
        "parameters, by FSDP2": ("shard 2", "each rank 1 of 2 parts"),
    }


def test_a_context_axis_divides_columns_in_stripes():
    found = held(4, context_parallel=2)
    assert found["64 columns, in stripes of 8"] == ("context 2", "1, 3, ... | 2, 4, ...")
    assert found["parameters, by FSDP2"] == ("shard 2 x context 2", "each rank 1 of 4 parts")


@pytest.mark.parametrize("family", ["olmo2", "deepseek_v3"])
def test_heads_that_a_family_leaves_whole_are_not_said_to_be_divided(family):
    found = held(2, family, tensor_parallel=2)
    assert "heads" not in found
    assert found["columns of a feed-forward layer"] == ("tensor 2", "0-47 | 48-95")


def test_an_expert_axis_divides_rows_too():
    found = held(4, "mixtral", expert_parallel=2)
    assert found["8 rows of a batch"] == ("shard 2 x expert 2", "0-1 | 2-3 | 4-5 | 6-7")
    assert found["experts of a layer"] == ("expert 2", "0-1 | 2-3")


def test_a_pipeline_divides_layers_the_last_one_less_for_the_output():
    found = held(2, vocab_size=1000, pipeline_parallel=2)
    assert found["layers"] == ("pipeline 2", "embedding, 0-3 | 4-5, output")


def test_interleaved_stages_of_a_rank_are_all_named():
    schedule: dict[str, Any] = {"pipeline_schedule": "interleaved_1f1b", "pipeline_chunks": 2}
    found = held(2, vocab_size=1, pipeline_parallel=2, **schedule)
    assert found["layers"] == ("pipeline 2", "embedding, 0, 3-4 | 1-2, 5, output")


def test_data_parallel_alone_needs_no_table():
    assert held(4) == {}


@pytest.mark.parametrize(
    ("processes", "across", "where"),
    [
        (8, [], "shard, context, tensor within a node"),
        (4, ["shard"], "context, tensor within a node; shard across nodes"),
        (2, ["shard", "context"], "tensor within a node; shard, context across nodes"),
        (1, ["shard", "context", "tensor"], "shard, context, tensor across nodes"),
    ],
)
def test_groups_lie_within_a_node_or_across(processes, across, where):
    layout = layout_of(stage_of(tensor_parallel=2, context_parallel=2), 8)
    assert axes_across_nodes(layout, processes) == across
    assert sitting(layout, processes) == where


def test_a_degree_that_fits_a_node_but_not_evenly_lies_across():
    layout = resolve_layout(ParallelismConfig(tensor_parallel=2), 6)
    assert axes_across_nodes(layout, 3) == ["shard", "tensor"]


def test_tensors_across_nodes_are_warned_of():
    layout = layout_of(stage_of(tensor_parallel=4), 4)
    assert placement_note("pretrain", layout, 2, 2) == (
        "pretrain: ranks of tensor_parallel 4 lie on several nodes of 2 processes, and exchange "
        "activations over the network in every layer; choose degrees whose product (4) divides "
        "the processes of a node"
    )
    assert placement_note("pretrain", layout, 1, 4) is None
    context = layout_of(stage_of(context_parallel=4), 4)
    assert placement_note("pretrain", context, 2, 2) is None
