import json
from dataclasses import replace

import numpy as np

from distrain.config.tasks import IGNORE_INDEX
from distrain.runs.folder import StageFolder
from distrain.stages.sft_data import computed_all
from distrain.stages.sft_samples import ExampleSamples, RowForm
from tests.distrain.data.samples.made_examples import example, made_examples

FORM = RowForm(64, pad_id=0, packing="best_fit", truncation="refuse", seed=3)


def test_sources_keep_their_examples_and_prompts_are_shuffled_over_all():
    found = {"a": made_examples(40, 1), "b": made_examples(1, 2), "none": []}
    samples = ExampleSamples.of(found, FORM)
    assert list(samples.datasets()) == ["a", "b"]
    assert list(samples.streams()) == ["a", "b"]
    assert len(samples) == 41
    own, shuffled = samples.apart()
    assert len(own) == len(shuffled) == 41
    assert shuffled.tokens.num_targets().tolist() == own.tokens.num_targets().tolist()
    for number in range(41):
        one, other = (each.tokens.inputs_and_targets(number) for each in (own, shuffled))
        kept = [ids[targets != IGNORE_INDEX].tolist() for ids, targets in (one, other)]
        assert kept[0][1:] == kept[1][1:]  # the first answer token's input is the prompt's last
        assert one[0].tolist() != other[0].tolist()


def test_the_examples_of_packed_samples_are_found_among_those_that_stand_apart():
    found = {"a": made_examples(20, 1), "b": made_examples(9, 2)}
    samples = ExampleSamples.of(found, FORM)
    sizes = {name: len(dataset) for name, dataset in samples.datasets().items()}
    assert sizes["a"] < 20  # packed
    every = samples.numbers_of({name: np.arange(size) for name, size in sizes.items()})
    assert sorted(every.tolist()) == list(range(29))
    some = samples.numbers_of({"a": np.arange(0), "b": np.array([sizes["b"] - 1])})
    own, _ = samples.apart()
    packed = samples.datasets()["b"]
    members = packed.members(sizes["b"] - 1).tolist()
    expected = [packed.tokens.inputs_and_targets(number)[0].tolist() for number in members]
    assert [own.tokens.inputs_and_targets(n)[0].tolist() for n in some.tolist()] == expected


def test_how_full_rows_are_is_told():
    samples = ExampleSamples.of({"a": made_examples(40, 1)}, FORM)
    found = samples.figures()
    examples = samples.fitted["a"]
    inputs = sum(len(one.ids) - 1 for one in examples)
    targets = sum(int(one.is_trained.sum()) for one in examples)
    assert found["examples"] == 40
    assert found["padding"] == round(1 - inputs / (64 * found["samples"]), 4)
    assert found["trained"] == round(targets / inputs, 4)


def test_a_stage_that_began_in_an_older_version_goes_on_computing_all_positions(tmp_path):
    folder = StageFolder(tmp_path, "sft")
    folder.path.mkdir()
    assert not computed_all(folder)  # it has not begun
    for record, expected in (
        ({}, True),
        ({"positions": "all"}, True),
        ({"positions": "needed"}, False),
    ):
        folder.data.write_text(json.dumps(record))
        assert computed_all(folder) is expected


def test_marks_that_fill_a_row_leave_out_their_example_and_answers_keep_a_target():
    """Words of the system give way to nothing; so they may leave the answer no room."""
    filling = example(range(1, 40), trained_from=36, marks=range(36))
    almost = example(range(1, 36), trained_from=30, marks=range(30))
    short = [example([n, n + 1, n + 2, n + 3], trained_from=2) for n in range(50, 90, 5)]
    form = replace(FORM, sequence_length=30, packing="none", truncation="cut")
    samples = ExampleSamples.of({"a": [filling, almost, *short]}, form)
    assert [(left.reason, left.needed) for left in samples.left_out] == [("too_long", 39)]
    assert samples.lengths.effects == {"too_long": 1, "cut_end": 1}
    for dataset in samples.apart():
        assert dataset.tokens.num_targets().min() == 1
        assert len(dataset) == len(short) + 1
