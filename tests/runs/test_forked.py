"""Ranks that a server forks: they import nothing, and do what ranks of torchrun do, bit for bit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.test_full_tuning import MODELS
from tests.runs.test_full_tuning import RECIPE as WITH_FAMILY
from tests.tiny import (
    command,
    environment,
    exact_records,
    tensor_digests,
    write_corpus,
    write_recipe,
)

pytestmark = pytest.mark.seams

IMPORTING = Path(__file__).parent / "importing"
ENGINES = {
    "ddp": ("parallelism.strategy=ddp",),
    "fsdp": (),
    "zero2": ("parallelism.strategy=deepspeed", "parallelism.zero_stage=2"),
    "zero3": ("parallelism.strategy=deepspeed", "parallelism.zero_stage=3"),
}
AT_A_SAVE = "torch.distributed.checkpoint"
"""What one rank that is alone imports by itself, the first time: it must not wait for it."""


def imported_by_ranks(recipe, runs, stages, *overrides):
    """Run stages; return what each rank that was forked had imported by its end."""
    folder = runs.parent / "imports"
    folder.mkdir()
    env = environment(runs) | {
        "PYTHONPATH": os.pathsep.join([str(IMPORTING), os.environ.get("PYTHONPATH", "")]),
        "DISTRAIN_TEST_IMPORTS": str(folder),
    }
    only = [word for stage in stages for word in ("--only", stage)]
    finished = subprocess.run(
        command("run", str(recipe), *only, *overrides),
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "no warm start" not in finished.stdout + finished.stderr
    return [path.read_text().split() for path in folder.iterdir()]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rank_imports_nothing_after_the_fork(engine, tmp_path):
    recipe = write_recipe(tmp_path, steps=6, sft_steps=6)
    stages = ("prepare", "pretrain", "sft")
    found = imported_by_ranks(recipe, tmp_path / "runs", stages, *ENGINES[engine])
    assert found == [[], [], [], []]


def test_nor_does_one_with_a_family_of_transformers_and_adapters(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", ("json", "logging", "http", "html"))
    recipe = tmp_path / "full.yaml"
    recipe.write_text(WITH_FAMILY.format(corpus=corpus, model=MODELS["qwen3"], processes=2))
    stages = ("prepare", "pretrain", "sft", "adapted")
    assert imported_by_ranks(recipe, tmp_path / "runs", stages) == [[]] * 6


def test_one_that_is_alone_imports_at_its_first_save(tmp_path):
    recipe = write_recipe(tmp_path, processes=1, steps=6)
    (found,) = imported_by_ranks(recipe, tmp_path / "runs", ("prepare", "pretrain"))
    assert AT_A_SAVE in found


def test_ranks_that_a_user_starts_by_torchrun_come_to_the_same_bits(twin, tmp_path):
    _, twin_run = twin
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(twin_run, run)
    shutil.rmtree(run / "pretrain")
    words = ("--standalone", "--nproc-per-node=2", "--module", "distrain", "stage", str(run))
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words, "pretrain"],
        env=environment(run.parent) | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert exact_records(run, "pretrain") == exact_records(twin_run, "pretrain")
    assert tensor_digests(run, "pretrain") == tensor_digests(twin_run, "pretrain")
