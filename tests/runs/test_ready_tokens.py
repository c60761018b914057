"""A run over tokens that another run has prepared, and published, is the run over its text."""

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import distrain, exact_records, tensor_digests, write_recipe

pytestmark = pytest.mark.data


def source(path, **settings):
    section = {"kind": "tokens", "format": "distrain", "paths": [str(path)]} | settings
    return f"prepare.data.source={json.dumps(section)}"


def ran(runs: Path, *arguments: str) -> None:
    done = distrain(runs, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A finished run over text, which measures its test split after pretraining."""
    folder = tmp_path_factory.mktemp("text")
    recipe = write_recipe(folder, steps=12)
    recipe.write_text(recipe.read_text().replace("needs: sft", "needs: pretrain"))
    ran(folder, "run", str(recipe), "stages.sft=skip")
    return recipe, folder / "tiny"


@pytest.mark.parametrize("place", ["folder", "url"])
def test_the_same_losses_weights_and_test_figures(text, tmp_path, place):
    recipe, twin = text
    path = str(twin / "prepare")
    cache = tmp_path / "cache"
    options = ["pairs.kind=none", "stages.sft=skip", "stages.export=skip"]
    if place == "url":
        path = f"file://{tmp_path}/there"
        ran(twin.parent, "data", "publish", "tiny", path)
        # Full order, as local shards have by default; blocks would make another run.
        options += ["pretrain.data.order.kind=full", f"pretrain.data.cache.folder={cache}"]
    ran(tmp_path, "run", str(recipe), source(path), *options)
    run = tmp_path / "tiny"
    assert exact_records(run, "pretrain") == exact_records(twin, "pretrain")
    assert tensor_digests(run, "pretrain") == tensor_digests(twin, "pretrain")
    results = [json.loads((root / "evaluate" / "result.json").read_text()) for root in (run, twin)]
    assert results[0] == results[1]
    assert any(cache.glob("blocks/*/*")) == (place == "url")
    ran(tmp_path, "report")
    seen = distrain(tmp_path, "data", "seen", "--step", "3")
    assert seen.returncode == 4
    assert "ready tokens, whose documents have no names" in seen.stderr
    shutil.rmtree(cache, ignore_errors=True)
