"""A run whose optimizer is changed: refused before and at the start, and what it is told works."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.tiny import distrain, write_recipe

ROOT = Path(__file__).parents[2]
LEFT_OUT = [f"stages.{name}=skip" for name in ("sft", "evaluate", "export")]
FURTHER = """\
  further:
    kind: pretrain
    needs: [prepare, pretrain]
    model: {dropout: 0.1}
    training: {max_steps: 5}
    optimizer: {name: counted}
"""


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Let every process of a run know the test-only optimizers."""
    site = tmp_path / "site"
    site.mkdir()
    text = "from tests.distrain.optim.toys import register\nregister()\n"
    (site / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{ROOT}", prepend=os.pathsep)


@pytest.mark.seams
@pytest.mark.usefixtures("known")
def test_a_run_keeps_its_optimizer_and_a_further_stage_takes_on_its_weights(tmp_path):
    recipe, runs = write_recipe(tmp_path, processes=1, steps=10), tmp_path / "runs"
    begun = distrain(runs, "run", str(recipe), *LEFT_OUT)
    assert begun.returncode == 0, begun.stderr
    run = runs / "tiny"

    refused = distrain(runs, "resume", "tiny", "pretrain.optimizer.name=counted")
    assert refused.returncode != 0
    assert "pretrain.optimizer.name adamw -> counted" in refused.stderr

    let_it_have_begun(run, "counted")
    refused = distrain(runs, "resume", "tiny")
    assert refused.returncode != 0
    message = (run / "pretrain" / "error.json").read_text()
    assert "the state of optimizer adamw" in message
    assert "that of counted, which optimizer.name says" in message
    assert "set training.max_steps to 10" in message

    let_it_have_begun(run, "adamw")
    text = recipe.read_text().replace("  sft:\n", FURTHER + "  sft:\n")
    recipe.write_text(text)
    ended = distrain(runs, "run", str(recipe), "pretrain.training.max_steps=10", *LEFT_OUT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    extra = json.loads((run / "further/checkpoints/step_000005/extra.json").read_text())
    assert extra["optimizer"]["name"] == "counted"
    assert set(extra["optimizer"]["scalars"]["count"].values()) == {5}
    result = json.loads((run / "pretrain/result.json").read_text())
    built_on = json.loads((run / "further/built_on.json").read_text())
    assert built_on["pretrain"]["product"] == result["checkpoint"]["product"]


def let_it_have_begun(run: Path, optimizer: str) -> None:
    """Let the stage have more steps to make, with an optimizer that nobody looked at."""
    resolved = run / "resolved.yaml"
    text = resolved.read_text().replace("max_steps: 10", "max_steps: 20")
    head, pretrain = text.split("  pretrain:\n")
    pretrain = re.sub(r"(optimizer:\n +name: )\w+", rf"\g<1>{optimizer}", pretrain)
    if optimizer == "counted":
        pretrain = re.sub(r" +(betas|eps): .*\n", "", pretrain)
    resolved.write_text(f"{head}  pretrain:\n{pretrain}")
    state = run / "pretrain/state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"state": "stopped"}))
