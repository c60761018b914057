"""Fine-tuning on packed examples, whole: killed and resumed on other numbers of ranks."""

import json
import time

import pytest

from tests.runs.processes import family, kill, start
from tests.tiny import PREPARE, distrain, events, exact_records, tensor_digests, write_corpus

pytestmark = pytest.mark.seams

RECIPE = (
    """\
name: packed
seed: 7
defaults:
  training: {{sequence_length: 128, global_batch_size: 4, micro_batch_size: 1}}
  optimizer: {{learning_rate: 3e-3}}
  checkpoint: {{save_steps: 3}}
  eval: {{eval_steps: 10, max_batches: 2}}
stages:
"""
    + PREPARE
    + """\
    tokenizer: {{vocab_size: 512}}
    pairs: {{kind: docstrings}}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}}
    training: {{max_steps: 2}}
  sft:
    kind: sft
    needs: pretrain
    training: {{max_steps: 24}}
    data: {{packing: best_fit, truncation: {truncation}}}
  evaluate: {{kind: evaluate, needs: sft}}
launch: {{processes_per_node: 2}}
"""
)


def write(folder, truncation="cut_left"):
    folder.mkdir()
    path = folder / "packed.yaml"
    corpus = write_corpus(folder / "corpus")
    path.write_text(RECIPE.format(corpus=corpus, truncation=truncation))
    return path


def read(run, name, stage="sft"):
    return json.loads((run / stage / name).read_text())


def seen(run, *asked):
    shown = distrain(run.parent, "data", "seen", run.name, "--stage=sft", *asked, "--json")
    assert shown.returncode == 0, shown.stderr
    result = json.loads(shown.stdout)["result"]
    return [result, *result.pop("parts")]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    recipe = write(tmp_path_factory.mktemp("packed") / "twin")
    done = distrain(recipe.parent / "runs", "run", str(recipe))
    assert done.returncode == 0, done.stdout + done.stderr
    return recipe, recipe.parent / "runs" / "packed"


def test_a_packed_stage_says_what_it_trains_on(twin):
    _, run = twin
    data, result = read(run, "data.json"), read(run, "result.json")
    assert data["packing"] == result["packing"] == "best_fit"
    assert data["rows"]["train"]["padding"] < 0.2
    assert 0 < data["rows"]["train"]["trained"] < 1
    assert data["leak_probe"]["examples"] >= 2
    assert data["leak_probe"]["largest_change"] == 0.0
    assert result["eval_loss"] < result["eval_loss_base"]
    assert events(run, "rehearsed")
    assert read(run, "result.json", "evaluate")["answers"]["pairs"] > 2


def start_and_kill(run, recipe):
    """Kill all processes of a run once fine-tuning has its first checkpoint."""
    launcher = start(run.parent, recipe)
    while not (run / "sft" / "checkpoints" / "step_000003").exists():
        assert launcher.poll() is None
        time.sleep(0.02)
    kill(family(launcher))
    launcher.wait(timeout=10)


def test_killed_and_resumed_it_ends_as_its_twin(twin, tmp_path):
    recipe, twin_run = twin
    run = tmp_path / "runs" / "packed"
    start_and_kill(run, recipe)
    done = distrain(run.parent, "run", str(recipe))
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(run, "resumed")
    assert exact_records(run, "sft") == exact_records(twin_run, "sft")
    assert tensor_digests(run, "sft") == tensor_digests(twin_run, "sft")
    assert read(run, "result.json", "evaluate") == read(twin_run, "result.json", "evaluate")


def test_on_other_ranks_it_goes_on_with_the_same_rows_and_not_with_another_packing(twin, tmp_path):
    """Batches are the same bits; losses are added up in another order."""
    recipe, twin_run = twin
    run = tmp_path / "runs" / "packed"
    start_and_kill(run, recipe)
    other = distrain(run.parent, "run", str(recipe), "stages.sft.data.packing=none")
    assert other.returncode != 0
    assert "which stage sft has built on" in other.stdout + other.stderr
    done = distrain(run.parent, "run", str(recipe), "launch.processes_per_node=4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(run, "resumed")
    found, expected = exact_records(run, "sft"), exact_records(twin_run, "sft")
    assert [r["data/batch_hash"] for r in found] == [r["data/batch_hash"] for r in expected]
    # Steps before and after the change were each made of what is said of them: it is compared
    # with the hash that the step recorded.
    for step in (1, 3, 24):
        (head, *parts), expected_parts = (seen(each, f"--step={step}") for each in (run, twin_run))
        assert [head, *parts] == expected_parts
        (_, *places) = seen(run, f"--document={parts[0]['path']}")
        assert step in {place["step"] for place in places}
    steps = [r["train/loss"] for r in found if r["train/loss"] is not None]
    assert steps == pytest.approx([r["train/loss"] for r in expected if r["train/loss"]], rel=1e-4)
