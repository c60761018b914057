"""Whole runs that meet a spike: what is left out stays so, and they end as those that knew it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.skips import read_skips
from tests.runs.test_hangs import HANGING
from tests.runs.test_preference import write_pairs
from tests.tiny import (
    PREPARE,
    command,
    distrain,
    environment,
    events,
    exact_records,
    tensor_digests,
    write_corpus,
)

pytestmark = pytest.mark.hangs

STAGES = ("pretrain", "sft", "prefer")
BATCH, BAD_STEP = 8, 8
BAD_SAMPLE = BATCH * (BAD_STEP - 1)
RECIPE = (
    """\
name: tiny
seed: 7
defaults:
  training:
    sequence_length: 64
    global_batch_size: 8
    micro_batch_size: 2
    max_steps: 12
    on_spike: {on_spike}
    spikes:
      window: 8
      warmup_steps: 4
      loss_threshold: null
      grad_norm_threshold: 500
      steps_before: 1
      steps_after: 1
  optimizer: {{learning_rate: 3e-3}}
  checkpoint: {{save_steps: 3, keep_last: 3}}
  eval: {{eval_steps: 6, max_batches: 2}}
stages:
"""
    + PREPARE
    + """\
    tokenizer: {{vocab_size: 512}}
    pairs: {{kind: docstrings}}
  pretrain:
    kind: pretrain
    needs: prepare
    model:
      hidden_size: 32
      num_hidden_layers: 1
      num_attention_heads: 2
      intermediate_size: 64
      dropout: 0.1
  sft: {{kind: sft, needs: pretrain, lora: {{r: 4, alpha: 8}}, data: {{truncation: cut}}}}
  prefer:
    kind: preference
    needs: sft
    data: {{path: "{pairs}", validation_fraction: 0.2, test_fraction: 0.2}}
launch: {{processes_per_node: 2}}
"""
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a recipe for each answer to a spike, and one run that is prepared."""
    folder = tmp_path_factory.mktemp("spikes")
    corpus = write_corpus(folder / "corpus", ("json", "logging", "http", "html"))
    pairs = write_pairs(folder / "pairs.jsonl", 200)
    for on_spike in ("rewind", "skip"):
        text = RECIPE.format(corpus=corpus, pairs=pairs, on_spike=on_spike)
        (folder / f"{on_spike}.yaml").write_text(text)
    run(folder / "rewind.yaml", folder / "base", "prepare")
    return folder


def begin(prepared, runs):
    """Return the folder of a run that is prepared and has not trained."""
    shutil.copytree(prepared / "base", runs)
    return runs / "tiny"


def run(recipe, runs, *stages, spike="", overrides=(), code=0):
    """Run stages, the batch at ``BAD_SAMPLE`` spiking on a rank."""
    only = [word for stage in stages for word in ("--only", stage)]
    env = environment(runs) | {
        "PYTHONPATH": os.pathsep.join([str(HANGING), os.environ.get("PYTHONPATH", "")]),
        "DISTRAIN_TEST_SPIKE": f"{BAD_SAMPLE}:{spike}" if spike else "",
    }
    done = subprocess.run(
        command("run", str(recipe), *only, *overrides),
        env=env,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def give_decisions(source: Path, target: Path, *stages: str) -> None:
    """Let a run know from its first step what another one has decided."""
    for stage in stages:
        (target / stage).mkdir()
        shutil.copy(source / stage / "skips.jsonl", target / stage)


def not_applied(folder: Path, stage: str) -> dict[int, str]:
    lines = map(json.loads, (folder / stage / "metrics.jsonl").read_text().splitlines())
    return {
        line["train/global_step"]: line["train/not_applied"]
        for line in lines
        if line.get("train/not_applied")
    }


@pytest.mark.parametrize(("on_spike", "rank"), [("rewind", 1), ("skip", 0)])
def test_each_kind_of_training_ends_as_one_that_knew_it(prepared, on_spike, rank, tmp_path):
    """The spike is seen by one rank of two only; a third run that never spikes is another one."""
    recipe = prepared / f"{on_spike}.yaml"
    spiked = begin(prepared, tmp_path / "spiked")
    run(recipe, spiked.parent, *STAGES, spike=str(rank))
    knew = begin(prepared, tmp_path / "knew")
    give_decisions(spiked, knew, *STAGES)
    run(recipe, knew.parent, *STAGES)
    never = begin(prepared, tmp_path / "never")
    run(recipe, never.parent, "pretrain")
    wanted = dict.fromkeys((7, 8, 9), "rewind") if on_spike == "rewind" else {8: "spike"}
    for stage in STAGES:
        (spike,) = [event for event in events(spiked, "spike") if event["stage"] == stage]
        assert (spike["step"], spike["metric"]) == (BAD_STEP, "grad_norm")
        assert not_applied(spiked, stage) == not_applied(knew, stage) == wanted, stage
        assert exact_records(spiked, stage) == exact_records(knew, stage), stage
        assert tensor_digests(spiked, stage) == tensor_digests(knew, stage), stage
    rewound = [event["step"] for event in events(spiked, "rewound")]
    assert rewound == ([6, 6, 6] if on_spike == "rewind" else [])
    assert len(events(spiked, "started")) == len(events(never, "started")) + len(STAGES) - 1
    assert tensor_digests(spiked, "pretrain") != tensor_digests(never, "pretrain")


def test_a_damaged_checkpoint_is_passed_over_for_one_before_it(prepared, tmp_path):
    recipe = prepared / "rewind.yaml"
    spiked = begin(prepared, tmp_path / "spiked")
    target = spiked / "pretrain" / "checkpoints" / "step_000006"
    run(recipe, spiked.parent, "pretrain", spike=f"1:{target}")
    (rewound,) = events(spiked, "rewound")
    assert rewound["step"] == 3
    reasons = {event["step"]: str(event["reason"]) for event in events(spiked, "quarantined")}
    assert 6 in reasons, reasons
    knew = begin(prepared, tmp_path / "knew")
    give_decisions(spiked, knew, "pretrain")
    run(recipe, knew.parent, "pretrain")
    assert exact_records(spiked, "pretrain") == exact_records(knew, "pretrain")
    assert tensor_digests(spiked, "pretrain") == tensor_digests(knew, "pretrain")


@pytest.mark.parametrize("on_spike", ["rewind", "skip"])
def test_with_another_batch_size_the_same_samples_are_left_out(prepared, on_spike, tmp_path):
    """The run dies after its decision, and goes on from before it in batches twice as large."""
    recipe = prepared / f"{on_spike}.yaml"
    spiked = begin(prepared, tmp_path / "spiked")
    run(
        recipe, spiked.parent, "pretrain", spike="1:die", overrides=["launch.max_restarts=0"],
        code=6,
    )  # fmt: skip
    (skip,) = read_skips(RunFolder(spiked).stage("pretrain"))
    assert skip.first_sample <= BAD_SAMPLE < skip.end_sample
    said = run(recipe, spiked.parent, "pretrain", overrides=["training.global_batch_size=16"])
    records = [
        json.loads(line)
        for line in (spiked / "pretrain" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [record for record in records if "train/applied" in record]
    firsts = [record["data/first_sample"] for record in steps]
    ends = [*firsts[1:], firsts[-1] + 16]
    for record, first, end in zip(steps, firsts, ends, strict=True):
        overlaps = first < skip.end_sample and skip.first_sample < end
        assert record["train/applied"] is not overlaps, (first, end)
    assert 16 in {end - first for first, end in zip(firsts, ends, strict=True)}, said
    status = distrain(spiked.parent, "status", str(spiked), "--json")
    assert status.returncode == 0
