"""A whole recipe with a model family that came later: prepared, trained, tuned, measured, exported.

And from its exported folder on again, where ``config.json`` says which family it is.
"""

import json

import pytest

from distrain.__main__ import main
from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from distrain.config.reading.resolved import dump_resolved
from distrain.models.huggingface import load_huggingface
from distrain.runs.folder import RunFolder
from distrain.tools.generate import generate
from launcher.estimate import stage_parameters
from launcher.inputs.checks import check_inputs
from tests.distrain.models.toy_family import ToyConfig, register, unregister
from tests.ranks import run_ranks
from tests.tiny import RECIPE, write_corpus

pytestmark = pytest.mark.seams

MODEL = "{name: toy, width: 16, heads: 2, head_size: 6, inner: 24, max_position_embeddings: 64}"
FOLDER = """\
name: again
stages:
  tuned:
    kind: sft
    model: {{from_pretrained: {folder}}}
    data: {{path: {pairs}, validation_fraction: 0.2}}
    training: {{max_steps: 3, sequence_length: {length}, global_batch_size: 4, micro_batch_size: 2}}
    lora: {{r: 2, target_modules: [{targets}]}}
  export: {{kind: export, needs: tuned, reload: false}}
"""


def with_toy(text):
    """Replace the model section of the tiny recipe's pretraining."""
    start = text.index("    model:\n")
    end = text.index("    training:", start)
    return f"{text[:start]}    model: {MODEL}\n{text[end:]}"


@pytest.fixture(scope="module", autouse=True)
def toy():
    register()
    yield
    unregister()


def run_stage(root, name):
    register()
    main(["stage", str(root), name])


def run_recipe(path, runs, ranks):
    """Resolve a recipe as the launcher does, and run its stages one after the other."""
    loaded = check_inputs(load_recipe(path))
    run = RunFolder(runs / loaded.recipe.name)
    run.root.mkdir(parents=True)
    run.resolved.write_text(dump_resolved(loaded.recipe))
    for name in loaded.recipe.stages:
        run_ranks(
            runs / "ranks" / loaded.recipe.name / name,
            ranks.get(name, 1),
            run_stage,
            run.root,
            name,
        )
        state = json.loads(run.stage(name).state.read_text())
        assert state["state"] == "done", (name, state)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    corpus = write_corpus(folder / "corpus")
    path = folder / "toy.yaml"
    path.write_text(with_toy(RECIPE.format(corpus=corpus, processes=2, steps=12, sft_steps=6)))
    return run_recipe(path, folder / "runs", {"pretrain": 2, "sft": 2})


def test_a_recipe_with_a_second_family_runs_from_text_to_a_folder(finished):
    model, vocab_size, state = load_huggingface(finished.stage("export").huggingface)
    assert isinstance(model, ToyConfig)
    assert (model.width, model.head_size) == (16, 6)
    result = json.loads(finished.stage("pretrain").result.read_text())
    assert result["parameters"] == model.num_parameters(vocab_size)
    assert result["parameters"] == sum(tensor.numel() for tensor in state.values())
    adapter = finished.stage("export").huggingface / "adapter" / "adapter_config.json"
    assert json.loads(adapter.read_text())["target_modules"] == ["fc", "out", "proj", "qkv"]
    assert isinstance(generate(finished.stage("export").huggingface, "def ", max_new_tokens=4), str)


@pytest.fixture
def recipe(finished, tmp_path):
    def write(targets="qkv", length=64):
        pairs = tmp_path / "pairs.jsonl"
        rows = ({"prompt": f"add {n}", "answer": f"{n} and one"} for n in range(40))
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        folder = finished.stage("export").huggingface
        path = tmp_path / "again.yaml"
        path.write_text(FOLDER.format(folder=folder, pairs=pairs, targets=targets, length=length))
        return path

    return write


def test_tuning_goes_on_from_the_folder_as_the_family_that_it_names(recipe, finished, tmp_path):
    path = recipe()
    run = run_recipe(path, tmp_path / "runs", {})
    first, second = (load_huggingface(each.stage("export").huggingface) for each in (finished, run))
    assert first[:2] == second[:2]
    assert stage_parameters(load_recipe(path).recipe, "tuned") == first[0].num_parameters(first[1])
    changed = [name for name, tensor in second[2].items() if not tensor.equal(first[2][name])]
    assert changed == ["blocks.0.qkv.weight", "blocks.1.qkv.weight"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": "q_proj"}, "found 'q_proj', which is no linear layer of toy; expected some"),
        ({"length": 65}, "training.sequence_length: found 65; expected at most 64"),
    ],
)
def test_what_does_not_fit_the_folder_s_family_is_refused_before_the_run(recipe, settings, message):
    with pytest.raises(RecipeErrors) as refused:
        check_inputs(load_recipe(recipe(**settings)))
    assert message in str(refused.value)
