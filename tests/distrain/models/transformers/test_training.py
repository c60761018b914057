"""Families trained by the real loop: the same losses on any engine, and exactly resumed."""

import json
from dataclasses import replace

import pytest
import torch

from distrain.checkpoint.dcp import read_full
from distrain.config.lora import LoraConfig
from distrain.fault.wishes import Wish
from distrain.finetune.lora import initialize_lora, inject_lora, plain_name
from distrain.models import build_model
from distrain.models.weights.source import TensorWeights
from distrain.stages.base_model import BaseModel
from distrain.stages.pretrain import model_spec
from tests.distrain.models.transformers.families import FAMILIES, bent, section
from tests.distrain.train.synthetic import ENGINES, VOCAB_SIZE, finish, make_run, make_stage
from tests.ranks import run_ranks

STEPS, CUT = 20, 12
EXACT = ("train/global_step", "train/loss", "train/grad_norm", "data/batch_hash", "eval/loss")
QUICK = ("qwen3",)
ADAPTED = ("gpt2", "deepseek-v3", "gemma2")
"""Conv1D; a buffer and frozen experts; tied weights."""
LORA = LoraConfig(r=4, alpha=16)
ENGINES_TRIED = ("single", "fsdp", "zero3")
QUICK_ENGINES = ("single", "fsdp")


def stage_of(name, engine):
    stage = make_stage(
        precision="fp32",
        max_steps=STEPS,
        parallelism=ENGINES[engine],
        checkpoint={"save_steps": 6},
        eval={"eval_steps": 10},
        optimizer={"learning_rate": 3e-3, "max_grad_norm": 0.5},
    )
    # Wide enough that no norm of a gradient falls below 1: clipping acts in every step.
    return stage.model_copy(update={"model": section(name, initializer_range=0.1)})


def train_until(stop, folder, name, engine):
    # A run that goes on begins with other values: what it has comes from the checkpoint.
    goes_on = (folder / "pretrain" / "checkpoints").exists()
    spec = spec_of_another_seed if goes_on else model_spec
    return finish(make_run(folder, stage_of(name, engine), 5, spec=spec), stop)


def spec_of_another_seed(stage, vocab_size, seed, device, precision):
    return model_spec(stage, vocab_size, seed + 1, device, precision)


def adapt_until(stop, folder, name, engine):
    """Train adapters, from weights that are loaded as ``sft`` loads them."""
    stage = stage_of(name, engine)
    run = make_run(folder, stage, 5, spec=adapted_spec)
    weights = TensorWeights(bent(name).state_dict())
    base = BaseModel(stage.model, VOCAB_SIZE, folder, weights=weights)
    base.load_into(run.engine)
    return finish(run, stop)


def adapted_spec(stage, vocab_size, seed, device, precision):
    plain = model_spec(stage, vocab_size, seed, device, precision)
    return replace(
        plain,
        build_model=lambda: inject_lora(build_model(stage.model, vocab_size), LORA, seed),
        initialize=lambda model: initialize_lora(model, seed),
        plain_name=plain_name,
    )


def make_runs(folder, engine, names, until=train_until, cuts=True):
    torch.set_num_threads(1)
    for name in names:
        assert until(None, folder / name / "whole", name, engine) is Wish.NONE
        if not cuts:
            continue
        assert until(CUT, folder / name / "cut", name, engine) is Wish.YIELD
        assert until(None, folder / name / "cut", name, engine) is Wish.NONE


def records(folder):
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [{key: json.loads(line).get(key) for key in EXACT} for line in lines]


def column(folder, key):
    return [row[key] for row in records(folder) if row[key] is not None]


def state(folder):
    return read_full(folder / "pretrain" / "checkpoints" / f"step_{STEPS:06d}", prefix="")


def trained(folder, names, engines, until=train_until):
    """Run the families on each engine, one process group an engine."""
    for engine in engines:
        ranks = 1 if engine == "single" else 2
        run_ranks(
            folder / "ranks", ranks, make_runs, folder / engine, engine, names, until, timeout_s=900
        )
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("quick"), QUICK, QUICK_ENGINES)


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory):
    """Every family on one engine; made when it is first asked for."""
    made = {}

    def runs(engine):
        if engine not in made:
            folder = tmp_path_factory.mktemp(engine)
            made[engine] = trained(folder, tuple(FAMILIES), (engine,)) / engine
        return made[engine]

    return runs


def check_same_learning(alone, sharded):
    losses = column(alone, "train/loss")
    assert min(column(alone, "train/grad_norm")) > 1
    assert losses[-1] < losses[0] - 0.1
    assert column(sharded, "train/loss") == pytest.approx(losses, abs=1e-5)


def check_resumed(runs):
    assert records(runs / "cut") == records(runs / "whole")
    whole, cut = state(runs / "whole"), state(runs / "cut")
    assert whole.keys() == cut.keys()
    assert all(tensor.equal(cut[key]) for key, tensor in whole.items())


@pytest.mark.parametrize("name", QUICK)
def test_a_family_learns_the_same_when_sharded_and_resumes_bitwise(name, quick):
    alone, sharded = (quick / engine / name / "whole" for engine in QUICK_ENGINES)
    check_same_learning(alone, sharded)
    check_resumed(quick / QUICK_ENGINES[1] / name)


@pytest.mark.models
@pytest.mark.parametrize(
    ("engine", "name"), [(engine, name) for engine in ENGINES_TRIED for name in FAMILIES]
)
def test_a_cut_run_of_every_family_resumes_bitwise(engine, name, runs_of):
    check_resumed(runs_of(engine) / name)


@pytest.mark.models
@pytest.mark.parametrize("engine", ENGINES_TRIED[1:])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_the_same_on_every_engine(name, engine, runs_of):
    check_same_learning(runs_of("single") / name / "whole", runs_of(engine) / name / "whole")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("adapted"), ADAPTED, ENGINES_TRIED, adapt_until)


@pytest.mark.models
@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_learn_the_same_on_every_engine_and_resume_bitwise(name, adapted):
    for engine in ENGINES_TRIED:
        check_resumed(adapted / engine / name)
    alone = column(adapted / "single" / name / "whole", "train/loss")
    assert alone[-1] < alone[0] - 0.02
    frozen = bent(name).state_dict()
    for engine in ENGINES_TRIED:
        whole = adapted / engine / name / "whole"
        assert column(whole, "train/loss") == pytest.approx(alone, abs=1e-5)
        entries = {key.partition("/")[2]: value for key, value in state(whole).items()}
        assert all(value.equal(entries[key]) for key, value in frozen.items() if key in entries)
        assert len(frozen.keys() & entries.keys()) >= len(frozen) - 1  # one may be tied
