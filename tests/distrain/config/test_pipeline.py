"""Layers are cut so that no stage waits longer for another than it must."""

from itertools import combinations, pairwise

import pytest

from distrain.config.models import LlamaConfig
from distrain.config.models.transformers import TransformersConfig
from distrain.config.pipeline import (
    cut_layers,
    layers_of_stages,
    output_cost,
    require_schedule,
    stages_of_rank,
)
from distrain.errors import RecipeError


def slowest(sizes, output):
    return max(*sizes[:-1], sizes[-1] + output)


@pytest.mark.parametrize("output", [0.0, 0.4, 1.0, 2.6, 9.0])
@pytest.mark.parametrize(("layers", "stages"), [(4, 2), (5, 3), (9, 4), (7, 7), (12, 2)])
def test_no_other_cut_has_a_cheaper_slowest_stage(layers, stages, output):
    found = cut_layers(layers, output, stages)

    assert [layer for stage in found for layer in stage] == list(range(layers))
    sizes = [len(stage) for stage in found]
    assert min(sizes) >= 1
    cuts = [(0, *inner, layers) for inner in combinations(range(1, layers), stages - 1)]
    every = [[b - a for a, b in pairwise(cut)] for cut in cuts]
    assert slowest(sizes, output) == min(slowest(other, output) for other in every)


def test_one_stage_holds_all():
    assert cut_layers(3, 5.0, 1) == (range(3),)


def test_the_output_layer_is_paid_for_in_layers():
    small = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=12)

    even = layers_of_stages(small, 64, 2)
    uneven = layers_of_stages(small, 4 * 640, 2)

    assert [len(stage) for stage in even] == [6, 6]
    # 12 layers and an output layer of 4: eight of these units on either side.
    assert output_cost(small, 4 * 640) == pytest.approx(4.0)
    assert [len(stage) for stage in uneven] == [8, 4]


def test_sizes_of_a_family_of_transformers_are_read_by_its_own_names():
    gpt2 = TransformersConfig(model_type="gpt2")

    # 12 layers of 12 * 768 ** 2 weights; 50257 * 768 of the output layer are 5.45 of them.
    assert output_cost(gpt2, 50257) == pytest.approx(50257 * 768 / (12 * 768**2))
    assert [len(stage) for stage in layers_of_stages(gpt2, 50257, 2)] == [9, 3]


def test_more_stages_than_layers_are_refused():
    with pytest.raises(RecipeError, match=r"8 stages .* for 4 layers.*at most 4"):
        layers_of_stages(LlamaConfig(num_hidden_layers=4), 64, 8)


def test_a_rank_holds_every_so_manieth_stage():
    assert [stages_of_rank(place, 2, 2) for place in range(2)] == [(0, 2), (1, 3)]


@pytest.mark.parametrize(
    ("schedule", "chunks", "microbatches", "found"),
    [
        ("1f1b", 2, 4, "2 stages a rank"),
        ("interleaved_1f1b", 1, 4, "1 stage a rank"),
        ("interleaved_1f1b", 2, 5, "5 microbatches.*such as 4 or 6"),
        ("zero_bubble", 1, 5, "5 microbatches"),
    ],
)
def test_what_a_schedule_cannot_run_is_refused(schedule, chunks, microbatches, found):
    with pytest.raises(RecipeError, match=found):
        require_schedule(schedule, 2, chunks, microbatches)


@pytest.mark.parametrize(
    ("schedule", "chunks", "microbatches"),
    [
        ("gpipe", 1, 1),
        ("1f1b", 1, 1),
        ("1f1b", 1, 5),
        ("interleaved_1f1b", 2, 4),
        ("interleaved_1f1b", 2, 3),
        ("zero_bubble", 1, 4),
    ],
)
def test_what_a_schedule_can_run_is_not(schedule, chunks, microbatches):
    require_schedule(schedule, 2, chunks, microbatches)
