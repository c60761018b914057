"""A small recipe, and a run folder of it whose stages are played by ``fake_runtime``."""

import json
from pathlib import Path

from distrain.config.launch import SiteConfig
from distrain.config.reading.load import LoadedRecipe, load_recipe
from distrain.runs.folder import RunFolder
from launcher.backends.backend import backend_of
from launcher.plan import Plan, make_plan
from launcher.run_files import make_folder, open_run
from tests.runtime_command import runtime_command

ROOT = Path(__file__).parents[2]

RECIPE = """\
# A small recipe. For tests.
version: 1
name: small
defaults:
  training: {sequence_length: 16, global_batch_size: 2, micro_batch_size: 2}
stages:
  prepare:
    kind: prepare
    data: {source: {kind: python_stdlib}}
  pretrain:
    kind: pretrain
    needs: prepare
    training: {max_steps: 25}
  export: {kind: export, needs: pretrain}
launch: {max_restarts: 1}
"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def load_small(folder: Path, *overrides: str, text: str = RECIPE) -> LoadedRecipe:
    return load_recipe(write_recipe(folder, text), overrides)


def new_run(folder: Path, *overrides: str, processes: int = 1, text: str = RECIPE) -> Plan:
    """Make a run folder in ``folder/runs``, which need not be where runs usually are."""
    loaded = load_small(folder, *overrides, text=text)
    run = RunFolder(folder / "runs" / loaded.recipe.name)
    make_folder(run)
    open_run(run, loaded)
    is_queued = backend_of(loaded.recipe.launch).is_queued
    return make_plan(loaded.recipe, run, processes, SiteConfig() if is_queued else None)


def fake_python(folder: Path, **behaviours: list[str]) -> str:
    """Write what each attempt of each stage does, and return the interpreter that does it."""
    every = {"prepare": ["done"], "pretrain": ["done"], "export": ["done"]} | behaviours
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs" / "behaviour.json").write_text(json.dumps(every))
    return runtime_command(folder, ROOT / "tests" / "launcher" / "fake_runtime.py")
