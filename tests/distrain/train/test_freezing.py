"""Parameters that a recipe freezes stay as they are, under every engine, and cost no state."""

import json

import pytest
import torch

from distrain.checkpoint.dcp import read_full
from distrain.config.training import TrainingConfig
from distrain.errors import RecipeError
from distrain.fault.wishes import Wish
from distrain.models.freezing import freeze
from distrain.models.init import initialize
from distrain.models.llama import Llama
from tests.distrain.train.synthetic import ENGINES, VOCAB_SIZE, finish, make_run, make_stage
from tests.ranks import run_ranks

SEED, STEPS, CUT = 5, 8, 4
FROZEN = ("model.embed_tokens.*", "model.layers.0.*")
others = [pytest.param(name, marks=pytest.mark.models) for name in ENGINES if name != "single"]


def stage_of(engine, frozen=FROZEN):
    training = {"max_steps": STEPS, "frozen_parameters": frozen, "precision": "fp32"}
    return make_stage(training=training, parallelism=ENGINES[engine], checkpoint={"save_steps": 2})


def train_both(folder, engine):
    """Train without a break, and with one."""
    torch.set_num_threads(1)
    assert finish(make_run(folder / "whole", stage_of(engine), SEED), None) is Wish.NONE
    assert finish(make_run(folder / "cut", stage_of(engine), SEED), CUT) is Wish.YIELD
    assert finish(make_run(folder / "cut", stage_of(engine), SEED), None) is Wish.NONE


def losses(folder):
    lines = (folder / "pretrain/metrics.jsonl").read_text().splitlines()
    return [row["train/loss"] for row in map(json.loads, lines) if row.get("train/loss")]


def state(folder):
    return read_full(folder / "pretrain" / "checkpoints" / f"step_{STEPS:06d}", prefix="")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    run_ranks(folder / "ranks", 1, train_both, folder, "single", timeout_s=300)
    return folder


def check_frozen(folder):
    found = state(folder / "whole")
    assert losses(folder / "whole")[-1] < losses(folder / "whole")[0] - 0.1
    start = Llama(stage_of("single").model, VOCAB_SIZE)
    initialize(start, SEED)
    training = stage_of("single").training
    for name, before in start.named_parameters():
        same = torch.equal(found[f"model/{name}"], before.detach())
        kept = [entry for entry in found if entry.endswith(f"/{name}")]
        assert same == training.is_frozen(name), name
        assert len(kept) == (1 if same else 3), name
    again = state(folder / "cut")
    assert found.keys() == again.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in found.items())


def test_what_is_frozen_stays_and_has_no_moments(alone):
    check_frozen(alone)


@pytest.mark.parametrize("engine", others)
def test_every_engine_freezes_alike(engine, alone, tmp_path):
    run_ranks(tmp_path / "ranks", 2, train_both, tmp_path, engine, timeout_s=300)
    check_frozen(tmp_path)
    assert losses(tmp_path / "whole") == pytest.approx(losses(alone / "whole"), abs=1e-5)


def training(**settings):
    return TrainingConfig(max_steps=1, **settings)


def test_what_is_not_frozen_is_trained_and_the_other_way_round():
    frozen = training(frozen_parameters=("model.layers.*", "lm_head.weight"))
    trained = training(unfrozen_parameters=("model.norm.weight", "model.embed_tokens.*"))
    for settings in (frozen, trained):
        model = freeze(Llama(stage_of("single").model, VOCAB_SIZE), settings)
        names = {name for name, p in model.named_parameters() if p.requires_grad}
        assert names == {"model.embed_tokens.weight", "model.norm.weight"}
    assert not training().freezes
    with pytest.raises(RecipeError, match="patterns that match every parameter"):
        freeze(Llama(stage_of("single").model, VOCAB_SIZE), training(frozen_parameters=("*",)))
