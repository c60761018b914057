"""Stages on several ranks: losses, norms and validations as in one process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distrain.models.causal_lm import model_in
from distrain.parallel.pipeline import tied
from distrain.train.run import Run
from tests.distrain.axes.families import FAMILIES, OURS
from tests.distrain.axes.harness import (
    Case,
    assert_as_alone,
    differences,
    digest_of,
    open_run,
    reference,
    run_over,
)
from tests.distrain.train.synthetic import finish
from tests.ranks import run_ranks
from tests.tiny import events

TIED = {"tie_word_embeddings": True}
STAGES = {"pipeline_parallel": 2}
BOTH = {**STAGES, "data_parallel_shard": 2}
INTERLEAVED = {"pipeline_schedule": "interleaved_1f1b", "pipeline_chunks": 2}


def keep_tied_gradients_apart():
    """Let the table and its copy be updated each by its own gradient."""
    tied.add_other_half = lambda table, ranks: None


def test_a_tied_model_in_two_stages_is_as_in_one_process(tmp_path):
    cases = {"tied": Case(OURS, STAGES, steps=6, model=TIED, micro_batch_size=2)}
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
def test_every_family_in_stages_and_shards_is_as_in_one_process(tmp_path):
    cases = {name: Case(name, BOTH) for name in FAMILIES}
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
def test_so_is_every_schedule(tmp_path):
    orders: dict[str, dict[str, Any]] = {
        "gpipe": {"pipeline_schedule": "gpipe"},
        "interleaved": INTERLEAVED,
        "zero": {"pipeline_schedule": "zero_bubble"},
        "zero-interleaved": {"pipeline_schedule": "zero_bubble", "pipeline_chunks": 2},
    }
    cases = {
        f"{order}-{family}": Case(family, {**BOTH, **settings})
        for order, settings in orders.items()
        for family in (OURS, "gemma2", "gpt2")
    }
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
def test_in_float64_hardly_anything_is_rounded(tmp_path):
    cases = {
        "ours": Case(OURS, BOTH, steps=6, precision="fp64", model=TIED),
        "gpt2": Case("gpt2", {**BOTH, **INTERLEAVED}, steps=6, precision="fp64"),
    }
    assert_as_alone(cases, run_over(tmp_path, cases))


@pytest.mark.axes
def test_a_tied_gradient_that_is_not_summed_shows(tmp_path):
    cases = {"apart": Case(OURS, STAGES, steps=6, model=TIED)}
    found = run_over(tmp_path, cases, keep_tied_gradients_apart)
    losses, norms, _ = differences(found["apart"], reference(cases["apart"]))
    assert norms > 1e-3
    assert losses > 1e-4


def keep_digest(folder: Path, case: Case, stop: int | None = None) -> None:
    """Train in ``folder``, from where it stands, and note what was reached. Collective."""
    run = open_run(folder, case)
    finish(run, stop)
    note(folder, run)


def restore_and_note(folder: Path, case: Case) -> None:
    """Load what is there, and note what arrived. Collective."""
    run = open_run(folder, case)
    run.restore()
    note(folder, run)


def note(folder: Path, run: Run) -> None:
    digest = digest_of(run)
    if run.host.rank == 0:
        (folder / "digest.json").write_text(json.dumps(digest))


def noted(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "digest.json").read_text())
    return found


@pytest.mark.axes
@pytest.mark.parametrize("family", [OURS, "gemma2"])
def test_a_checkpoint_of_stages_is_that_of_one_process(family, tmp_path):
    model = TIED if family == OURS else {}
    stages, alone = Case(family, BOTH, steps=6, model=model), Case(family, steps=6, model=model)
    interleaved = replace(stages, parallelism={**STAGES, **INTERLEAVED})
    folder = tmp_path / "run"

    run_ranks(tmp_path, stages.world_size, keep_digest, folder, stages)
    saved = noted(folder)
    for layout in (alone, interleaved, stages):
        (folder / "digest.json").unlink()
        run_ranks(tmp_path, layout.world_size, restore_and_note, folder, layout)
        assert noted(folder) == saved, layout.parallelism


@pytest.mark.axes
def test_a_resumed_pipeline_goes_on_bit_by_bit(tmp_path):
    case = Case(OURS, BOTH, steps=6, model=TIED)
    for name, stops in {"twin": (None,), "cut": (3, None)}.items():
        for stop in stops:
            run_ranks(tmp_path, case.world_size, keep_digest, tmp_path / name, case, stop)

    assert noted(tmp_path / "cut") == noted(tmp_path / "twin")
    assert [event["step"] for event in events(tmp_path / "cut", "resumed")] == [3]


@pytest.mark.axes
def test_what_else_a_recipe_asks_for_is_as_in_one_process(tmp_path):
    training: dict[str, dict[str, Any]] = {
        "recomputed": {"gradient_checkpointing": "full"},
        "in-chunks": {"loss": {"chunk_tokens": 16, "z_loss": 1e-3, "label_smoothing": 0.1}},
        # The first stage is left without anything to train.
        "frozen": {"frozen_parameters": ["model.embed_tokens.*", "model.layers.[01].*"]},
    }
    rules = [{"match": "*norm*", "lr_ratio": 0.5}, {"match": "*embed*", "lr_ratio": 0.3}]
    optimizer = {"learning_rate": 1e-3, "max_grad_norm": 1.0}
    exact = Case(OURS, BOTH, steps=5, precision="fp64", model=TIED)
    cases = {
        **{name: replace(exact, sections={"training": each}) for name, each in training.items()},
        "rules": replace(exact, sections={"optimizer": {**optimizer, "groups": rules}}),
        **{
            name: replace(exact, sections={"optimizer": {**optimizer, "name": name}})
            for name in ("adafactor", "muon")
        },
        "odd": replace(exact, vocab_size=121),
        "one-microbatch": replace(exact, micro_batch_size=8),
        "deep": replace(exact, parallelism={"pipeline_parallel": 4}, micro_batch_size=1),
        "replicas": replace(exact, parallelism={**STAGES, "data_parallel_replicate": 2}),
        "tensors": replace(exact, parallelism={**STAGES, "tensor_parallel": 2}),
        "tensors-gpt2": replace(
            exact, family="gpt2", model={}, parallelism={**STAGES, "tensor_parallel": 2}
        ),
        "experts": Case("qwen3_moe", {**STAGES, "expert_parallel": 2}, steps=5),
    }
    assert_as_alone(cases, run_over(tmp_path, cases))


def score_tokens(folder: Path, case: Case) -> None:
    """Ask the whole model, outside of any schedule, as probes and generation do. Collective."""
    run = open_run(folder, case)
    model = run.engine.model.eval()
    model_in(model).require_separate_documents(model)
    with torch.no_grad():
        scores = model(torch.arange(40).view(2, 20))
    torch.save(scores, folder.with_name(f"{folder.name}-{run.host.rank}.pt"))


@pytest.mark.axes
@pytest.mark.parametrize("family", [OURS, "gemma2"])
def test_a_pass_without_a_schedule_gives_every_rank_the_scores(family, tmp_path):
    stages = Case(family, {**BOTH, **INTERLEAVED}, precision="fp64")
    for case in (stages, stages.alone):
        folder = tmp_path / str(case.world_size)
        run_ranks(tmp_path, case.world_size, score_tokens, folder, case)

    expected = torch.load(tmp_path / "1-0.pt")
    for rank in range(stages.world_size):
        torch.testing.assert_close(torch.load(tmp_path / f"4-{rank}.pt"), expected)
