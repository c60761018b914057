"""What the plan says of a rank's memory under axes, and what is alive on one."""

import gc
import json
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from math import prod

import pytest

from distrain.config.layout import resolve_layout
from distrain.config.models import LlamaConfig
from distrain.config.recipe import SftStage
from distrain.train import loop
from launcher.memory import method_memory
from launcher.rank_part import parts_of, passes_in_flight
from tests.distrain.axes.harness import BATCH, DEGREES, LENGTH, Case, open_run
from tests.distrain.train.synthetic import finish
from tests.heap import in_memory, peak_during
from tests.ranks import run_ranks

SIZES = LlamaConfig(
    hidden_size=64, num_hidden_layers=8, num_attention_heads=8, intermediate_size=128
)
ROWS, VOCAB = 4, 128
NO_DEGREES: dict[str, int] = {}


def memory_of(method="full", microbatches=1, training=None, **parallelism):
    world = prod(parallelism.get(name, 1) for name in DEGREES)
    sizes = {"max_steps": 1, "sequence_length": 32, **(training or {})}
    lora: dict[str, object] | None = {} if method == "lora" else None
    stage = SftStage.model_validate(
        {"kind": "sft", "training": sizes, "lora": lora, "parallelism": parallelism}
    )
    layout = resolve_layout(stage.parallelism, world)
    found = method_memory(stage, SIZES, VOCAB, ROWS * 32, layout=layout, microbatches=microbatches)
    assert ("qlora" in found) == (world == 1)
    return found[method]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_one_process_takes_what_it_took_without_a_layout(method):
    stage = SftStage.model_validate({"kind": "sft", "training": {"max_steps": 1}, "lora": None})
    found = memory_of(method, training={"sequence_length": stage.training.sequence_length})
    assert found == method_memory(stage, SIZES, VOCAB, ROWS * 32)[method]
    assert found.gathered == 0


AXES = {
    "tensor_parallel": {"tensor_parallel": 2},
    "pipeline_parallel": {"pipeline_parallel": 2},
    "context_parallel": {"context_parallel": 2},
    "data_parallel_shard": {"data_parallel_shard": 2},
}


def test_degrees_multiply():
    norms = (2 * SIZES.num_hidden_layers + 1) * SIZES.hidden_size
    total = SIZES.num_parameters(VOCAB)
    # All but the norms is cut by tensors; FSDP2 cuts the rest over shards and columns alike.
    held = (total - norms) // 2 + norms
    assert memory_of(tensor_parallel=2).weights == 4 * held
    both = memory_of(tensor_parallel=2, context_parallel=2, data_parallel_shard=4)
    assert both.weights == 4 * held // 8
    assert both.state == 12 * held // 8
    assert both.trained == total
    # Halves of the layers, of which the last one gives some away for the output layer.
    piped = memory_of(pipeline_parallel=2, tensor_parallel=2, data_parallel_shard=2)
    assert 4 * held // 4 < piped.weights < 4 * held // 3


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("axis", AXES)
def test_more_ranks_never_take_more(axis, method):
    found = [memory_of(method, microbatches=1, **{axis: degree}) for degree in (1, 2, 4)]
    for less, more in pairwise(found):
        assert more.weights <= less.weights
        assert more.activations <= less.activations
        assert more.trained == less.trained
    assert found[-1].peak < found[0].peak


def test_a_cut_stream_keeps_less_and_columns_keep_all_keys():
    whole = memory_of(tensor_parallel=2, sequence_parallel=False).activations
    assert memory_of(tensor_parallel=2).activations < whole
    alone, cut = memory_of().activations, memory_of(context_parallel=4).activations
    assert alone / 4 < cut < alone / 2


@pytest.mark.parametrize(
    ("schedule", "chunks", "microbatches", "by_place"),
    [
        ("gpipe", 1, 8, (8, 8, 8, 8)),
        ("1f1b", 1, 8, (4, 3, 2, 1)),
        ("1f1b", 1, 2, (2, 2, 2, 2)),
        ("interleaved_1f1b", 2, 8, (11, 9, 7, 5)),
        ("zero_bubble", 1, 8, (7, 5, 3, 1)),
    ],
)
def test_a_schedule_says_how_many_passes_are_under_way(schedule, chunks, microbatches, by_place):
    found = tuple(passes_in_flight(schedule, place, 4, chunks, microbatches) for place in range(4))
    assert found == by_place
    assert passes_in_flight(schedule, 0, 1, 1, microbatches) == 1


def test_stages_hold_every_layer_once_and_a_tied_table_at_both_ends():
    stage = SftStage.model_validate(
        {"kind": "sft", "training": {"max_steps": 1}, "parallelism": {"pipeline_parallel": 2}}
    )
    layout = resolve_layout(stage.parallelism, 2)
    for tied in (False, True):
        model = SIZES.model_copy(update={"tie_word_embeddings": tied})
        first, last = (
            set(part.shapes(model, VOCAB)) for part in parts_of(layout, stage, model, VOCAB, 2)
        )
        assert first | last == set(model.tensor_shapes(VOCAB))
        assert first & last == ({"model.embed_tokens.weight"} if tied else set())


WIDE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
# Saved without the copy of weights and moments that a save in the background is made from.
AT_ONCE = {"checkpoint": {"save_steps": 1000, "keep_last": 9, "async_save": False}}
BIG = Case(steps=3, model=WIDE, vocab_size=4096, micro_batch_size=4, sections=AT_ONCE)


def alive(folder, case):
    """Write how much more the steps of a run have alive than one of a tiny model left behind."""
    finish(open_run(folder / f"warm-{case.world_size}", replace(case, model={}, vocab_size=120)))
    gc.collect()
    before, _ = in_memory()
    made, peaks = loop.train_step, []

    def watched(*args):
        found = []
        peaks.append(peak_during(lambda: found.append(made(*args)))[0] - before)
        return found[0]

    loop.train_step = watched
    run = open_run(folder / "big", case)
    finish(run)
    assert len(peaks) == case.steps
    (folder / f"alive-{run.host.rank}").write_text(json.dumps(max(peaks)))


@pytest.mark.axes
@pytest.mark.parametrize("axis", [None, *AXES])
def test_a_rank_takes_what_is_said(axis, tmp_path):
    case = replace(BIG, parallelism=AXES.get(axis, NO_DEGREES))
    run_ranks(tmp_path / "ranks", case.world_size, alive, tmp_path, case)
    stage = case.stage
    assert isinstance(stage.model, LlamaConfig)
    layout = resolve_layout(stage.parallelism, case.world_size)
    microbatches = BATCH // layout.dp_size // case.micro_batch_size
    tokens = case.micro_batch_size * LENGTH
    said = method_memory(
        stage, stage.model, case.vocab_size, tokens, layout=layout, microbatches=microbatches
    )["full"]
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("alive-*"))]
    ratio = max(found) / said.peak
    parts = {name: size >> 20 for name, size in asdict(said).items()}
    sys.stdout.write(f"{axis}: {ratio:.2f} of {said.peak >> 20} MiB said, {parts}, {found}\n")
    assert 0.7 < ratio < 1.3
