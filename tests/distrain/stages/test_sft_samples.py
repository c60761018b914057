import json

from distrain.runs.folder import StageFolder
from distrain.stages.sft_data import computed_all
from distrain.stages.sft_samples import ExampleSamples, RowForm
from tests.distrain.data.samples.made_examples import made_examples

FORM = RowForm(64, pad_id=0, packing="best_fit", truncation="refuse", seed=3)


def test_sources_keep_their_examples_and_prompts_are_shuffled_over_all():
    found = {"a": made_examples(40, 1), "b": made_examples(1, 2), "none": []}
    samples = ExampleSamples.of(found, FORM)
    assert list(samples.datasets()) == list(samples.shuffled()) == ["a", "b"]
    assert list(samples.streams()) == ["a", "b"]
    assert len(samples) == 41
    for name, shuffled in samples.shuffled().items():
        own = samples.datasets()[name].tokens
        assert shuffled.tokens.num_targets().tolist() == own.num_targets().tolist()
        assert shuffled.tokens.ids.tolist() != own.ids.tolist()


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
