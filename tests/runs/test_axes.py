"""Whole runs over axes of ranks: a rank is killed, and the end is the twin's, bit for bit."""

import json
import time
from pathlib import Path

import pytest

from distrain.runs.certificates import read_certificate
from distrain.runs.folder import RunFolder
from tests.runs.processes import assert_no_orphans, family, kill, ranks_of, start, wait_for_stage
from tests.tiny import PREPARE, distrain, events, exact_records, tensor_digests, write_corpus

pytestmark = pytest.mark.axes

HEAD = """\
name: tiny
seed: 7
defaults:
  training: {{sequence_length: 64, global_batch_size: 8, micro_batch_size: 2}}
  optimizer: {{learning_rate: 3e-3}}
  lr_scheduler: {{warmup_steps: 4}}
  checkpoint: {{save_steps: 5, keep_last: 2}}
  eval: {{eval_steps: 10, max_batches: 2}}
stages:
"""
REST = """\
    tokenizer: {{vocab_size: 511}}
    pairs: {{kind: none}}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {model}
    parallelism: {parallelism}
    training: {{max_steps: 20}}
launch: {{processes_per_node: {processes}}}
"""
OURS = (
    "{hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, "
    "intermediate_size: 64}"
)
MIXTRAL = (
    "{model_type: mixtral, config: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, "
    "num_key_value_heads: 2, intermediate_size: 48, num_local_experts: 4, "
    "max_position_embeddings: 64}}"
)
LAYOUTS = {
    "TP x FSDP2": ("{tensor_parallel: 2}", 4, OURS),
    "CP": ("{context_parallel: 2}", 2, OURS),
    "PP x FSDP2": ("{pipeline_parallel: 2}", 4, OURS),
    "EP": ("{expert_parallel: 2}", 2, MIXTRAL),
}
"""``parallelism``, processes and model of each; the layout of data parallelism is ``auto``."""


def write_recipe(folder: Path, layout: str) -> Path:
    parallelism, processes, model = LAYOUTS[layout]
    corpus = write_corpus(folder / "corpus", ("json", "logging", "http", "html"))
    path = folder / "tiny.yaml"
    given = {"model": model, "parallelism": parallelism, "processes": processes}
    path.write_text((HEAD + PREPARE + REST).format(corpus=corpus, **given))
    return path


def steps_made(run: Path) -> int:
    metrics = run / "pretrain" / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return sum('"train/loss"' in line for line in lines)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_killed_rank_changes_nothing(layout, tmp_path):
    recipe = write_recipe(tmp_path, layout)
    twin = tmp_path / "twin" / "tiny"
    finished = distrain(twin.parent, "run", str(recipe))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    run = tmp_path / "runs" / "tiny"
    launcher = start(run.parent, recipe)
    assert wait_for_stage(run, "pretrain", launcher)
    while steps_made(run) < 7:  # the checkpoint of step 5 is there, and steps after it are lost
        assert launcher.poll() is None, (tmp_path / "launcher.log").read_text()
        time.sleep(0.02)
    processes = family(launcher)
    kill(ranks_of(processes)[-1:])
    assert launcher.wait(timeout=300) == 0, (tmp_path / "launcher.log").read_text()
    assert_no_orphans(processes)
    assert [event["stage"] for event in events(run, "resumed")] == ["pretrain"]
    assert exact_records(run, "pretrain") == exact_records(twin, "pretrain")
    assert tensor_digests(run, "pretrain") == tensor_digests(twin, "pretrain")
    assert samples_of(run) == samples_of(twin)
    certificate = read_certificate(RunFolder(run).stage("pretrain"))
    assert certificate is not None
    assert certificate["found"] == []
    assert certificate["state"] == "weights, optimizer state and next samples as saved"
    assert certificate["again"].endswith("made again bit by bit")


def samples_of(run: Path) -> object:
    """Return what the ledger of a finished stage says of the samples that were read."""
    result = json.loads((run / "pretrain" / "result.json").read_text())
    return result["samples"]
