"""A user's own model measured and exported by a recipe that trains nothing."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from distrain.__main__ import main
from distrain.config.models import LlamaConfig
from distrain.config.reading.load import load_recipe, read_resolved
from distrain.config.reading.resolved import dump_resolved
from distrain.data.tokenizer.tokenizer import train_tokenizer
from distrain.models import build_model
from distrain.models.huggingface import save_huggingface
from distrain.models.init import initialize
from distrain.models.origin import SpecialTokens
from distrain.models.weights.writer import write_tensors
from distrain.runs.folder import RunFolder
from distrain.runs.sums import digest_of
from distrain.stages.context import StageContext
from distrain.stages.export import run_stage
from launcher.inputs.checks import check_inputs
from tests.ranks import run_ranks
from tests.tiny import write_corpus

MODEL = LlamaConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
VOCABULARY = 320
RECIPE = """\
name: given
stages:
  prepare:
    kind: prepare
    data:
      source: {{kind: files, paths: ["{folder}/corpus"]}}
      validation_fraction: 0.2
      test_fraction: 0.2
    tokenizer: {{path: {folder}/base}}
  evaluate: {{kind: evaluate, needs: prepare, model: {{from_pretrained: {folder}/base}}}}
  export: {{kind: export, model: {{from_pretrained: {folder}/base}}, reload: false}}
"""


def write_base(folder, corpus):
    """Write a model in bf16 whose output layer is zero: each token is as likely as any other."""
    texts = [path.read_text() for path in sorted(corpus.iterdir())]
    tokenizer = train_tokenizer(texts, vocab_size=VOCABULARY, min_frequency=2)
    model = build_model(MODEL, VOCABULARY)
    initialize(model, seed=1)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    state["lm_head.weight"].zero_()
    save_huggingface(state, MODEL, VOCABULARY, folder, SpecialTokens())
    (folder / "tokenizer.json").write_text(tokenizer)


def run_stages(root, names):
    for name in names:
        main(["stage", str(root), *name.split()])


def result_of(run, name):
    return json.loads(run.stage(name).result.read_text())


def digests_of(base):
    return {
        name: digest_of(base / name)
        for name in ("config.json", "tokenizer.json", "model.safetensors")
    }


def recorded(folder):
    """The digests that a stage has noted, without what else it knows the files by."""
    return {name: of["sha256"] for name, of in json.loads(folder.pretrained.read_text()).items()}


@pytest.fixture
def given(tmp_path):
    """A model, and a run of a checked recipe that has not begun."""
    write_base(tmp_path / "base", write_corpus(tmp_path / "corpus", ("json", "email", "logging")))
    path = tmp_path / "given.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    run = RunFolder(tmp_path / "runs" / "given")
    run.root.mkdir(parents=True)
    run.resolved.write_text(dump_resolved(check_inputs(load_recipe(path)).recipe))
    return tmp_path / "base", run


def test_the_export_of_a_folder_has_its_very_weights(given):
    base, run = given
    context = StageContext(read_resolved(run.resolved), run, "export", 0)
    context.folder.path.mkdir()
    result = run_stage(context).result
    assert result is not None
    assert result["parameters"] == MODEL.num_parameters(VOCABULARY)
    exported = context.folder.huggingface
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (exported, base))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype == torch.bfloat16
        assert ours[name].view(torch.int16).equal(tensor.view(torch.int16)), name
    same = [(folder / "tokenizer.json").read_bytes() for folder in (exported, base)]
    assert same[0] == same[1]
    assert recorded(context.folder) == digests_of(base)


@pytest.mark.models
def test_the_documents_are_measured_with_the_models_own_weights(given, tmp_path):
    base, run = given
    run_ranks(tmp_path / "first", 1, run_stages, run.root, ("prepare", "evaluate"))
    result = result_of(run, "evaluate")
    assert result["measured"] == {"documents": "evaluate"}
    assert result["documents"]["loss"] == pytest.approx(math.log(VOCABULARY), abs=1e-6)
    assert result["documents"]["targets"] > 1000
    before = recorded(run.stage("evaluate"))
    assert before == digests_of(base)
    changed = load_file(base / "model.safetensors")
    changed["lm_head.weight"].normal_(std=0.5)
    write_tensors(base / "model.safetensors", changed)
    run_ranks(tmp_path / "second", 1, run_stages, run.root, ("evaluate --again",))
    again = result_of(run, "evaluate")["documents"]
    assert again["targets"] == result["documents"]["targets"]
    assert abs(again["loss"] - math.log(VOCABULARY)) > 0.01
    assert recorded(run.stage("evaluate")) == digests_of(base) != before
    limited = run.resolved.read_text().replace("max_memory: null", "max_memory: 40000")
    run.resolved.write_text(limited)
    run_ranks(tmp_path / "third", 1, run_stages, run.root, ("evaluate --again",))
    assert result_of(run, "evaluate")["documents"] == again  # read from the folder, block by block
