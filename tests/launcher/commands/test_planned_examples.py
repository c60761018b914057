"""``distrain data sample RECIPE``: what will be trained on is shown before there is a run."""

import json

import numpy as np
import pytest

from distrain.config.reading.load import dump_resolved
from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder
from distrain.stages.sft_records import choose_examples
from distrain.tools.examples import read_planned, read_stage
from launcher.commands import cli
from launcher.commands.planned_examples import planned_recipe
from tests.distrain.data.tokenizer.test_layouts import TEMPLATES, folder_with

RECIPE = """\
name: told
stages:
  tune:
    kind: {kind}
    model: {{from_pretrained: model}}
    training: {{max_steps: 2, sequence_length: 64}}
    data: {{path: rows.jsonl, validation_fraction: 0.2, template_arguments: {{mood: 1}}}}
"""
TODAY = "{% if mood %}{{ strftime_now('%Y') }}{% endif %}" + TEMPLATES["chatml"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Write a recipe with its model and rows, but for what a real base needs to be trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    folder_with(tmp_path / "model", TODAY)

    def write(kind, rows):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "told.yaml").write_text(RECIPE.format(kind=kind))
        return "told.yaml"

    return write


PAIRS = [{"prompt": f"{n} and one?", "answer": f"it is {n}"} for n in range(20)]
BOTH = [{"prompt": r["prompt"], "chosen": r["answer"], "rejected": "no"} for r in PAIRS]


def test_a_recipe_shows_its_masks_and_writes_nothing(recipe, tmp_path, capfd, monkeypatch):
    name = recipe("sft", PAIRS)
    monkeypatch.setattr("launcher.inputs.checks.CHECKS", ())  # the model has no weights
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["data", "sample", name, "--number", "2", "tune.data.train_on=last"]) == 0
    out = capfd.readouterr().out
    assert out.count("--- tune: train/pairs, rows.jsonl:") == 2
    assert out.count("[[it is ") == 2
    assert out.count("[<|im_end|> 2]]]") == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("kind", "rows"), [("sft", PAIRS), ("preference", BOTH)])
def test_it_is_what_the_run_trains_on(recipe, kind, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("launcher.inputs.checks.CHECKS", ())
    text = dump_resolved(planned_recipe(recipe(kind, rows), ()))
    splits, tokenizer = read_planned(text, "tune")
    run = RunFolder(tmp_path / "runs" / "told")
    run.root.mkdir(parents=True)
    run.resolved.write_text(text)
    theirs, _ = read_stage(run, "tune")
    for split, samples in splits.items():
        for name, dataset in samples.datasets().items():
            assert dataset.tokens.digest() == theirs[split].datasets()[name].tokens.digest()
    chosen = [example for _, example in choose_examples(splits["train"], 3, 0)]
    assert len(chosen) == (3 if kind == "sft" else 6)
    said = [tokenizer.decode(np.asarray(each.ids)[each.is_trained].tolist()) for each in chosen]
    if kind == "preference":
        assert all(text.startswith("no") for text in said[1::2])
    assert all(text.startswith("it is") for text in said[:: 1 if kind == "sft" else 2])


def test_what_another_stage_has_to_make_is_said(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("launcher.inputs.checks.CHECKS", ())
    text = dump_resolved(planned_recipe("quickstart", ()))
    with pytest.raises(NotFoundError, match=r"a tokenizer that the stage prepare has to make"):
        read_planned(text, "sft")
    with pytest.raises(NotFoundError, match="found none; expected one of: tune"):
        read_planned(dump_resolved(planned_recipe(recipe("sft", PAIRS), ())), "sft")
