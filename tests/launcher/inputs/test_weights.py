"""Weights that are not those of the folder's model are named before anything is queued."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from distrain.config.models import LlamaConfig, TransformersConfig
from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from distrain.config.recipe import SftStage
from distrain.models import model_on_meta
from distrain.models.huggingface import save_huggingface
from distrain.models.origin import SpecialTokens
from launcher import model_counts
from launcher.estimate import stage_parameters
from launcher.inputs import models
from launcher.inputs.checks import check_inputs
from launcher.inputs.weights import weights_problem_of

MODEL = LlamaConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=10, intermediate_size=32
)
TIED = MODEL.model_copy(update={"tie_word_embeddings": True})
TOKENIZER = json.dumps(
    {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 0, "content": "<|endoftext|>"}]}
)
RECIPE = """\
name: tuned
stages:
  sft:
    kind: sft
    model: {from_pretrained: FOLDER}
    data: {path: pairs.jsonl}
    training: {max_steps: 4, sequence_length: 64}
"""


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "model", MODEL)
    return tmp_path / "model"


def save(folder, model):
    state = {name: torch.zeros(shape) for name, shape in model.tensor_shapes(8).items()}
    save_huggingface(state, model, 8, folder, SpecialTokens())


def changed(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("model", [MODEL, TIED], ids=["own", "tied"])
def test_the_names_without_torch_are_those_of_the_module(model):
    module = model_on_meta(model, 8)
    expected = {n: tuple(t.shape) for n, t in module.state_dict().items() if not module.is_tied(n)}
    assert model.tensor_shapes(8) == expected


def test_a_whole_folder_has_no_problem_nor_a_tied_head_stored_twice(folder, tmp_path):
    assert weights_problem_of(folder, MODEL, 8) is None
    save(tmp_path / "tied", TIED)
    changed(tmp_path / "tied", lambda t: t.update({"lm_head.weight": torch.zeros(8, 16)}))
    assert weights_problem_of(tmp_path / "tied", TIED, 8) is None


def rename(tensors):
    tensors["model.layers.0.mlp.gated_proj.weight"] = tensors.pop(
        "model.layers.0.mlp.gate_proj.weight"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, "without model.layers.0.mlp.gate_proj.weight (like model.layers.0.mlp.gated_proj"),
        (lambda t: t.update({"score.weight": torch.zeros(2)}), "found score.weight in"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(9)}),
            "found model.norm.weight of shape (9,)",
        ),
    ],
)
def test_weights_that_differ_are_named_at_their_setting(folder, tmp_path, change, message):
    changed(folder, change)
    path = tmp_path / "tuned.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(folder)))
    (folder / "tokenizer.json").write_text(TOKENIZER)
    with pytest.raises(RecipeErrors) as refused:
        check_inputs(load_recipe(path))
    found = refused.value.problems
    assert [str(problem.place) for problem in found] == [f"{path}:5:30"]
    assert message in found[0].message


def test_pickled_weights_come_with_the_way_to_convert_them(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    problem = weights_problem_of(folder, MODEL, 8)
    assert problem is not None
    assert "pickled weights (pytorch_model.bin), which run code when they are read" in problem
    assert f"save_pretrained('{folder}-safetensors')" in problem


@pytest.mark.models
def test_a_family_of_transformers_is_compared_in_a_process_of_its_own(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(
        "qwen3", vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, intermediate_size=16,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    changed(tmp_path, lambda t: t.pop("model.norm.weight"))
    problem = model_counts.count_folder(tmp_path).problem
    assert problem is not None
    assert "1 parameters missing ['model.norm.weight']" in problem


@pytest.mark.models
def test_one_process_answers_for_checks_and_sizes_of_a_folder(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "model"
    config = transformers.AutoConfig.for_model(
        "qwen3", vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, intermediate_size=16,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(TOKENIZER)
    path = tmp_path / "tuned.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(folder)))
    asked = []
    ask = model_counts._ask

    def count(question):
        asked.append(question)
        return ask(question)

    monkeypatch.setattr(model_counts, "_ask", count)
    recipe = check_inputs(load_recipe(path)).recipe
    assert stage_parameters(recipe, "sft") == model.num_parameters()
    assert len(asked) == 1


@pytest.mark.models
def test_a_family_that_does_not_attend_by_the_interface_is_named_before_the_queue(tmp_path):
    (tmp_path / "corpus.txt").write_text("text\n" * 100)
    recipe = tmp_path / "hybrid.yaml"
    recipe.write_text(
        "name: hybrid\n"
        "defaults: {training: {max_steps: 4, sequence_length: 64}}\n"
        "stages:\n"
        "  text: {kind: prepare, tokenizer: {vocab_size: 300},\n"
        f"    data: {{source: {{kind: files, paths: [{tmp_path}/corpus.txt]}}}}}}\n"
        "  a: {kind: pretrain, needs: text,\n"
        "      model: {model_type: jamba, config: {num_hidden_layers: 5, hidden_size: 64}}}\n"
        "  b: {kind: pretrain, needs: text,\n"
        "      model: {model_type: apertus, config: {num_hidden_layers: 1}}}\n"
        "  c: {kind: pretrain, needs: text,\n"
        "      model: {model_type: mixtral, config: {num_hidden_layers: 1}},\n"
        "      optimizer: {groups: [{match: '*nrom*', weight_decay: 0}, {match: '*norm*'}]}}\n"
    )
    with pytest.raises(RecipeErrors) as refused:
        check_inputs(load_recipe(recipe))
    said = [problem.message for problem in refused.value.problems]
    assert len(said) == 3, said
    assert "found jamba: 1 of 5 layers that call attention through the interface" in said[0]
    assert "Choose another family" in said[0]
    assert "found apertus: a rule of initial values for" in said[1]
    assert "optimizer.groups[0].match: found '*nrom*', which no parameter's name" in said[2]


def test_what_a_stage_states_in_vain_of_a_folder_is_said(tmp_path):
    """The names are of the folder's family, whatever the section's own is."""
    qwen = TransformersConfig(model_type="qwen3", config={"num_hidden_layers": 1})
    counts = model_counts.ModelCounts(parameter_names=("a.weight", "b.weight", "model.norm.weight"))
    recipe = tmp_path / "tuned.yaml"
    recipe.write_text(
        RECIPE.replace("from_pretrained: FOLDER", "from_pretrained: FOLDER, dropout: 0.1")
        + "    optimizer: {groups: [{match: '*nrom*'}]}\n    lora: null\n"
    )
    stage = load_recipe(recipe).recipe.stages["sft"]
    assert isinstance(stage, SftStage)
    (named,) = models._check_names("sft", stage, qwen, counts)
    assert "found '*nrom*', which no parameter's name matches" in named.message
    (rate,) = models._check_rates("sft", stage, models.ModelFolder(tmp_path, qwen, 8))
    assert rate.is_note
    assert "model.dropout has no effect" in rate.message
    assert "is qwen3, whose own settings of dropout go into model.config" in rate.message
    assert not list(models._check_rates("sft", stage, models.ModelFolder(tmp_path, MODEL, 8)))
