"""A model family that came later trains, resumes and leaves as the first one does.

It has biases, another norm, a head size of its own and other names in folders.
"""

import json

import pytest
import torch

from distrain.checkpoint.dcp import read_full
from distrain.fault.wishes import Wish
from distrain.models import build_model
from distrain.models.huggingface import load_huggingface, save_huggingface
from distrain.models.init import initialize
from distrain.models.origin import SpecialTokens
from tests.distrain.models.toy_family import ToyConfig, register, unregister
from tests.distrain.train.synthetic import (
    ENGINES,
    SEQUENCE_LENGTH,
    VOCAB_SIZE,
    finish,
    make_run,
    make_stage,
)
from tests.ranks import run_ranks

LAST = 12
EXACT = ("train/global_step", "train/loss", "train/grad_norm", "data/batch_hash", "eval/loss")
SEED = 5
REPRESENTATIVE = "fsdp"
every_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(name, marks=() if name == REPRESENTATIVE else pytest.mark.seams)
        for name in ENGINES
    ],
)
# Folder -> the step after which it stops and goes on, and its dropout.
RUNS: dict[str, tuple[int | None, float]] = {
    "whole": (None, 0.0),
    "cut": (7, 0.0),
    "other": (None, 0.1),
}


@pytest.fixture(autouse=True)
def toy():
    register()
    yield
    unregister()


def stage_of(engine, dropout=0.0):
    stage = make_stage(
        precision="fp32",
        max_steps=LAST,
        parallelism=ENGINES[engine],
        checkpoint={"save_steps": 5},
        eval={"eval_steps": 6},
    )
    model = ToyConfig(max_position_embeddings=SEQUENCE_LENGTH, dropout=dropout)
    return stage.model_copy(update={"model": model})


def make_runs(folder, engine, names=("whole", "cut")):
    register()
    for name in names:
        stop, dropout = RUNS[name]
        if stop is not None:
            assert train_until(stop, folder / name, stage_of(engine, dropout)) is Wish.YIELD
        assert train_until(None, folder / name, stage_of(engine, dropout)) is Wish.NONE


def train_until(stop, folder, stage):
    return finish(make_run(folder, stage, SEED), stop)


def records(folder):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [{key: json.loads(line).get(key) for key in EXACT} for line in lines]


def losses(folder):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line).get("train/loss") for line in lines]
    return [loss for loss in found if loss is not None]


def checkpoint(folder):
    return folder / "pretrain" / "checkpoints" / f"step_{LAST:06d}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses of the same run in one process, and of another run."""
    folder = tmp_path_factory.mktemp("alone")
    run_ranks(folder / "ranks", 1, make_runs, folder, "single", ("whole", "other"))
    return losses(folder / "whole"), losses(folder / "other")


@every_engine
def test_a_second_family_trains_resumes_and_is_exported(engine, alone, tmp_path):
    run_ranks(tmp_path / "ranks", 1 if engine == "single" else 2, make_runs, tmp_path, engine)
    # Resumed: bit for bit what was never cut.
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    whole, cut = (read_full(checkpoint(tmp_path / name), prefix="") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(tensor.equal(cut[name]) for name, tensor in whole.items())
    # Trained: as in one process, and not as another run.
    found = losses(tmp_path / "whole")
    assert found == pytest.approx(alone[0], abs=1e-5)
    assert found != pytest.approx(alone[1], abs=1e-5)
    assert found[-1] < found[0]
    check_export(stage_of(engine).model, read_full(checkpoint(tmp_path / "whole")), tmp_path / "hf")


def check_export(config, state, folder):
    """Write what was trained as a folder, read it back, and ask it."""
    with torch.device("meta"):
        fresh = build_model(config, VOCAB_SIZE)
    fresh.to_empty(device="cpu")
    initialize(fresh, SEED)
    moved = [name for name, value in fresh.named_parameters() if not state[name].equal(value)]
    assert len(moved) == len(list(fresh.parameters()))  # biases and norms were trained too
    save_huggingface(state, config, VOCAB_SIZE, folder, SpecialTokens(None, 0, 1))
    read, _, values = load_huggingface(folder)
    assert read == config
    assert values.keys() == state.keys()
    assert all(tensor.equal(values[name]) for name, tensor in state.items())
