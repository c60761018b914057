import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.config.axes import lay_out
from distrain.config.layout import (
    Layout,
    count_steps,
    microbatches_per_rank,
    order_of,
    resolve_layout,
    stage_order,
)
from distrain.config.reading.load import load_recipe
from distrain.config.training import ParallelismConfig, TrainingConfig
from distrain.errors import RecipeError

DEGREES = st.one_of(st.just("auto"), st.integers(1, 16))
STRATEGIES = st.sampled_from(["auto", "single", "ddp", "fsdp", "deepspeed"])


@given(STRATEGIES, DEGREES, DEGREES, st.integers(1, 16))
def test_the_degrees_of_every_accepted_layout_multiply_to_the_processes(
    strategy, shard, replicate, world_size
):
    config = ParallelismConfig(
        strategy=strategy, data_parallel_shard=shard, data_parallel_replicate=replicate
    )
    try:
        layout = resolve_layout(config, world_size)
    except RecipeError:
        assert (strategy, shard, replicate) != ("auto", "auto", "auto")
    else:
        assert layout.world_size == world_size
        assert shard in ("auto", layout.dp_shard)
        assert replicate in ("auto", layout.dp_replicate)


@pytest.mark.parametrize(
    ("settings", "world_size", "layout"),
    [
        ({}, 1, Layout("single", 3, 1, 1)),
        ({}, 4, Layout("fsdp", 3, 1, 4)),
        ({"strategy": "ddp"}, 4, Layout("ddp", 3, 4, 1)),
        ({"data_parallel_replicate": 2}, 8, Layout("fsdp", 3, 2, 4)),
        ({"strategy": "deepspeed", "zero_stage": 1}, 2, Layout("deepspeed", 1, 1, 2)),
        ({"strategy": "fsdp"}, 1, Layout("fsdp", 3, 1, 1)),
    ],
)
def test_what_auto_means(settings, world_size, layout):
    assert resolve_layout(ParallelismConfig(**settings), world_size) == layout


@pytest.mark.parametrize(
    ("settings", "world_size", "text"),
    [
        (
            {"data_parallel_replicate": 2, "data_parallel_shard": 8},
            8,
            "parallelism: found data_parallel_replicate 2 * data_parallel_shard 8 = 16 ranks; "
            "expected 8 ranks (launch.nodes * launch.processes_per_node). "
            "Set parallelism.data_parallel_shard to 4.",
        ),
        (
            {"data_parallel_replicate": 3, "data_parallel_shard": 4},
            8,
            "Set parallelism.data_parallel_replicate to 2.",
        ),
        (
            {"data_parallel_replicate": 3, "data_parallel_shard": 5},
            8,
            "Choose launch.nodes * launch.processes_per_node as 15, or set both degrees to auto.",
        ),
        (
            {"data_parallel_replicate": 3},
            8,
            "parallelism.data_parallel_replicate: found 3, which does not divide 8 processes; "
            "expected one of 1, 2, 4, 8. Set parallelism.data_parallel_replicate to 2",
        ),
        ({"strategy": "single"}, 2, "Set parallelism.strategy to fsdp, or launch.processes"),
        ({"strategy": "single", "tensor_parallel": 2}, 2, "Set parallelism.strategy to fsdp."),
        (
            {"tensor_parallel": 3},
            4,
            "found tensor_parallel 3, which does not divide 4 processes; expected a divisor of 4 "
            "(launch.nodes * launch.processes_per_node). Set parallelism.tensor_parallel to 2, or "
            "start a multiple of 3 processes, as 6.",
        ),
        ({"tensor_parallel": 2}, 1, "found tensor_parallel 2, which does not divide 1 process;"),
        (
            {"strategy": "ddp", "data_parallel_shard": 2},
            2,
            "Set parallelism.data_parallel_shard to auto, or parallelism.strategy to fsdp.",
        ),
        (
            {"strategy": "deepspeed", "data_parallel_replicate": 2},
            4,
            "Set parallelism.data_parallel_replicate to auto, or parallelism.strategy to fsdp.",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_with_the_value_that_would(
    settings, world_size, text
):
    with pytest.raises(RecipeError) as caught:
        resolve_layout(ParallelismConfig(**settings), world_size)
    assert text in str(caught.value)


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 8))
def test_accepted_microbatches_make_up_the_global_batch(batch, limit, world_size):
    training = TrainingConfig(max_steps=1, global_batch_size=batch, micro_batch_size=limit)
    try:
        count = microbatches_per_rank(training, world_size)
    except RecipeError:
        assert batch % world_size or (batch // world_size) % limit
    else:
        share = batch // world_size
        assert share * world_size == batch
        assert share % count == 0
        assert share // count <= limit


def test_ranks_that_read_the_same_rows_count_as_processes():
    training = TrainingConfig(max_steps=1, global_batch_size=8)
    with pytest.raises(RecipeError, match="to 6 or 9, or use 4 processes"):
        lay_out(ParallelismConfig(tensor_parallel=2), training, 6)


def test_a_share_below_the_microbatch_is_one_microbatch():
    training = TrainingConfig(max_steps=1, global_batch_size=8, micro_batch_size=8)
    assert microbatches_per_rank(training, 4) == 1


@pytest.mark.parametrize(
    ("batch", "limit", "world_size", "remedy"),
    [
        (8, 4, 3, "Set training.global_batch_size to 6 or 9, or use 2 processes."),
        (2, 4, 3, "Set training.global_batch_size to 3, or use 2 processes."),
        (12, 4, 2, "Set training.micro_batch_size to 3, or training.global_batch_size to 16."),
    ],
)
def test_a_batch_that_cannot_be_cut_is_refused_with_values_that_work(
    batch, limit, world_size, remedy
):
    training = TrainingConfig(max_steps=1, global_batch_size=batch, micro_batch_size=limit)
    with pytest.raises(RecipeError) as caught:
        microbatches_per_rank(training, world_size)
    assert caught.value.remedy == remedy


@pytest.mark.parametrize(
    ("length", "num_samples", "steps"),
    [
        ({"max_steps": 7}, None, 7),
        ({"max_tokens": 500_000}, None, 244),  # 244.1: a part of a batch is no step
        ({"max_tokens": 2047}, None, 0),
        ({"num_epochs": 1.5}, None, None),
        ({"num_epochs": 1.5}, 75, 14),  # 14.06
    ],
)
def test_the_length_of_a_stage_is_in_whole_steps(length, num_samples, steps):
    training = TrainingConfig(global_batch_size=8, sequence_length=256, **length)
    assert count_steps(training, num_samples) == steps


def test_stages_follow_their_needs_and_else_the_file(recipe):
    assert stage_order(load_recipe(recipe).recipe) == ("prepare", "pretrain", "sft", "evaluate")
    assert order_of({"d": ("b",), "c": (), "b": ("a",), "a": ()}) == ("c", "a", "b", "d")
