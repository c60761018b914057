"""The loss in chunks, and blocks that are made again, under every engine equal plain ones."""

import pytest
import torch

from distrain.config.models import LlamaConfig
from distrain.config.recipe import PretrainStage
from distrain.config.tasks import IGNORE_INDEX
from distrain.parallel.apply import ModelSpec, build_engine
from distrain.parallel.engine import OneByOne
from distrain.parallel.global_tensor import gather_full
from distrain.stages.pretrain import model_spec
from tests.distrain.parallel.tiny_model import Case, lr_at, ranks_of
from tests.ranks import run_ranks

VOCAB, LENGTH, BATCH, STEPS = 50, 12, 8, 3
SIZES = LlamaConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    initializer_range=0.3,
)
LOSS = {"label_smoothing": 0.1, "z_loss": 0.05}


def spec_of(*, chunk_tokens, tied, recomputed="none", **loss) -> ModelSpec:
    stage = PretrainStage.model_validate(
        {
            "kind": "pretrain",
            "needs": "prepare",
            "model": SIZES.model_dump() | {"tie_word_embeddings": tied},
            "training": {
                "max_steps": STEPS,
                "loss": LOSS | {"chunk_tokens": chunk_tokens} | loss,
                "gradient_checkpointing": recomputed,
            },
        }
    )
    return model_spec(stage, VOCAB, 3, torch.device("cpu"), "fp32")


def batch_of(step):
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(VOCAB, (BATCH, LENGTH), generator=generator)
    skipped = torch.rand(BATCH, LENGTH, generator=generator) < 0.4
    return ids, ((ids * 3 + 1) % VOCAB).masked_fill(skipped, IGNORE_INDEX)


def outcome_of(name, spec, microbatch):
    """Losses, norms, an evaluation and the trained weights. Collective."""
    stage = int(name[-1]) if name.startswith("zero") else 3
    strategy = "deepspeed" if name.startswith("zero") else name
    engine = build_engine(ranks_of(Case(strategy, stage=stage)), spec)
    ranks, found = engine.ranks, []

    assert isinstance(engine, OneByOne)

    def summed(part_ids, part_targets):
        return engine.model(part_ids, target_ids=part_targets, rows=(len(part_ids),)).sum()

    for step in range(STEPS):
        ids, targets = batch_of(step)
        share = BATCH // ranks.dp_size
        mine = slice(ranks.dp_rank * share, (ranks.dp_rank + 1) * share)
        parts = list(zip(ids[mine].split(microbatch), targets[mine].split(microbatch), strict=True))
        count, total = int((targets != IGNORE_INDEX).sum()), torch.zeros(1, dtype=torch.float64)
        for number, part in enumerate(parts, start=1):
            with engine.accumulate(last=number == len(parts)):
                loss = summed(*part)
                engine.backward(loss * (ranks.dp_size / count))
            total += loss.detach()
        read, norm = engine.fetch(total)
        (loss_sum,), (norm,) = ranks.exchange(sums=read, maxima=[norm])
        update = engine.update(lr_at(step), 1.0, loss_sum / count, norm)
        found += [loss_sum / count, update.grad_norm]
    engine.model.eval()
    with torch.no_grad():
        found.append(summed(*batch_of(99)).item())
    state = gather_full(engine.state(optimizer=False))
    engine.close()
    return torch.tensor(found), state


def differences(outcome, expected):
    (found, state), (wanted, whole) = outcome, expected
    weights = max(float((state[name] - whole[name]).abs().max()) for name in whole)
    return float(((found - wanted) / wanted).abs().max()), weights


VARIANTS = (
    {"chunk_tokens": 7, "tied": False},
    {"chunk_tokens": 7, "tied": True},
    {"chunk_tokens": None, "tied": False, "recomputed": "full"},
    {"chunk_tokens": 7, "tied": True, "recomputed": 2},
)


def compare_on_ranks(alone, engines):
    for name in engines:
        for variant in VARIANTS:
            outcome = outcome_of(name, spec_of(**variant), microbatch=2)
            losses, weights = differences(outcome, alone[variant["tied"]])
            assert losses < 1e-5, (name, variant, losses)
            assert weights < 1e-5, (name, variant, weights)


@pytest.mark.parametrize(
    "engines",
    [
        ("ddp", "fsdp"),
        pytest.param(("zero1", "zero2", "zero3"), marks=pytest.mark.models),
    ],
    ids="-".join,
)
def test_every_engine_with_either_equals_one_process_without(tmp_path, engines):
    alone = {
        tied: outcome_of("single", spec_of(chunk_tokens=None, tied=tied), BATCH)
        for tied in (False, True)
    }
    run_ranks(tmp_path, 2, compare_on_ranks, alone, engines)


@pytest.mark.parametrize("changes", [{"z_loss": 0.06}, {"label_smoothing": 0.11}])
def test_that_comparison_sees_another_loss(changes):
    expected = outcome_of("single", spec_of(chunk_tokens=None, tied=False), BATCH)
    same = outcome_of("single", spec_of(chunk_tokens=7, tied=False), 4)
    other = outcome_of("single", spec_of(chunk_tokens=7, tied=False, **changes), 4)
    assert max(differences(same, expected)) < 1e-5
    assert differences(other, expected)[1] > 1e-4


def test_terms_act_in_training_and_not_in_validation():
    plain = spec_of(chunk_tokens=None, tied=False, label_smoothing=0.0, z_loss=0.0)
    for chunk_tokens in (None, 7):
        found = []
        for spec in (plain, spec_of(chunk_tokens=chunk_tokens, tied=False)):
            model = build_engine(ranks_of(Case()), spec).model
            ids, targets = batch_of(0)
            trained = model.train()(ids, target_ids=targets, rows=(BATCH,))
            measured = model.eval()(ids, target_ids=targets, rows=(BATCH,))
            found.append((trained.item(), measured.item()))
        assert found[1][1] == pytest.approx(found[0][1], rel=1e-6)
        assert found[1][0] > found[0][0] * 1.05
