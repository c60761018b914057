"""Whole runs of stages of kind preference: their reference, cut and resumed, what they leave."""

import itertools
import json
import os
import shutil
import signal

import pytest

from distrain.__main__ import main
from distrain.config.reading.load import load_recipe
from distrain.finetune import reference
from distrain.runs import durable
from distrain.runs.folder import RunFolder
from launcher.run_files import make_folder, open_run
from tests.ranks import exit_codes
from tests.tiny import PREPARE, exact_records, tensor_digests, write_corpus

pytestmark = pytest.mark.models

RECIPE = (
    """\
name: prefer
seed: 7
defaults:
  training: {{sequence_length: 64, global_batch_size: 8, micro_batch_size: 2, precision: fp64}}
  optimizer: {{learning_rate: 3e-3}}
  checkpoint: {{save_steps: 2}}
  eval: {{eval_steps: 2, max_batches: 2}}
stages:
"""
    + PREPARE
    + """\
    tokenizer: {{vocab_size: 400}}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}}
    training: {{max_steps: 4}}
  kept: {{kind: preference, needs: pretrain, training: {{max_steps: 4}}, data: {data}}}
  live:
    kind: preference
    needs: pretrain
    training: {{max_steps: 4}}
    preference: {{reference: live}}
    data: {data}
  full: {{kind: preference, needs: pretrain, training: {{max_steps: 4}}, lora: null, data: {data}}}
  evaluate: {{kind: evaluate, needs: kept}}
  export: {{kind: export, needs: kept, reload: false}}
launch: {{processes_per_node: {ranks}}}
"""
)


def write_pairs(path, count=60):
    lines = [
        {
            "prompt": f"How many are {number} and {number % 7}?",
            "chosen": f"They are {number + number % 7}" + "." * (number % 5),
            "rejected": "No idea" + " at all" * (number % 4),
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def made(folder, ranks=1):
    pairs = write_pairs(folder / "pairs.jsonl")
    recipe = folder / "prefer.yaml"
    data = f'{{path: "{pairs}", validation_fraction: 0.2, test_fraction: 0.2}}'
    corpus = write_corpus(folder / "corpus", ("json", "logging", "http", "html"))
    recipe.write_text(RECIPE.format(corpus=corpus, data=data, ranks=ranks))
    run = RunFolder(folder / "runs" / "prefer")
    make_folder(run)
    open_run(run, load_recipe(recipe))
    return run


def run_stage(root, stage):
    """As a process of the runtime."""
    assert main(["stage", str(root), stage]) == 0


def finish(folder, run, *stages, ranks=1):
    for stage in stages:
        assert exit_codes(folder / "ranks", ranks, run_stage, run.root, stage) == [0] * ranks, stage


def result_of(run, stage):
    return json.loads(run.stage(stage).result.read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefer")
    run = made(folder)
    finish(folder, run, "prepare", "pretrain", "kept", "live")
    return run


def losses(run, stage):
    return [
        record["train/loss"]
        for record in exact_records(run.root, stage)[1:]
        if record["train/loss"]
    ]


def test_a_kept_reference_and_a_live_one_give_the_same_losses(run):
    kept, live = losses(run, "kept"), losses(run, "live")
    assert len(kept) == 4
    assert kept == pytest.approx(live, rel=1e-6)
    assert kept[0] == pytest.approx(0.6931, abs=1e-4)  # it begins as its reference
    assert run.stage("kept").reference.exists()
    assert not run.stage("live").reference.exists()
    result = result_of(run, "kept")
    assert result["eval_reward_margin"] > 0
    assert 0 <= result["eval_reward_accuracy"] <= 1
    both = [result_of(run, stage)["preferences"]["intervals"] for stage in ("kept", "live")]
    margin = both[0]["reward_margin"]
    assert margin["value"] == pytest.approx(result["eval_reward_margin"], rel=1e-6)
    assert margin["low"] < margin["value"] < margin["high"]
    for name, found in both[0].items():
        assert found == pytest.approx(both[1][name], rel=1e-6), name


def again(run, folder, stage, last="step_000004"):
    """Copy the run as if its last checkpoint of a stage had been lost."""
    copy = RunFolder(folder / "runs" / "prefer")
    shutil.copytree(run.root, copy.root, symlinks=True)
    shutil.rmtree(copy.stage(stage).checkpoints / last)
    for path in (copy.stage(stage).result, copy.stage(stage).state):
        path.unlink()
    return copy


@pytest.mark.parametrize("stage", ["kept", "live"])
def test_it_goes_on_bit_for_bit(run, tmp_path, stage):
    copy = again(run, tmp_path, stage)
    kept = copy.stage("kept").reference.read_bytes()
    finish(tmp_path, copy, stage)
    assert copy.stage("kept").reference.read_bytes() == kept
    assert exact_records(copy.root, stage) == exact_records(run.root, stage)
    assert tensor_digests(copy.root, stage) == tensor_digests(run.root, stage)


def test_killed_before_the_reference_was_whole_it_makes_the_same_again(run, tmp_path):
    copy = again(run, tmp_path, "kept")
    reference = copy.stage("kept").reference
    content = reference.read_bytes()
    shutil.rmtree(copy.stage("kept").checkpoints)
    reference.unlink()
    reference.with_name("reference.json.tmp").write_text("half of it")
    finish(tmp_path, copy, "kept")
    assert reference.read_bytes() == content
    assert losses(copy, "kept") == losses(run, "kept")


def kill_within(root, place):
    """Train ``kept``, and die where the reference is half said, or said and half written."""

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    said = reference.live_reference
    asked = itertools.count()

    def say(module, microbatch):
        return die() if next(asked) == 5 else said(module, microbatch)

    named = durable.name_file

    def name(stream, path, **options):
        return die() if path.name == "reference.json" else named(stream, path, **options)

    if place == "computing":
        reference.live_reference = say
    else:  # all is written, and has no name yet
        durable.name_file = name
    run_stage(root, "kept")


@pytest.mark.parametrize("place", ["computing", "writing"])
def test_killed_while_the_reference_is_made_it_ends_as_its_twin(run, tmp_path, place):
    copy = again(run, tmp_path, "kept")
    shutil.rmtree(copy.stage("kept").path)
    kept = copy.stage("kept").reference
    assert exit_codes(tmp_path / "ranks", 1, kill_within, copy.root, place) == [-signal.SIGKILL]
    assert not kept.exists()  # whole, or not there
    assert (copy.stage("kept").path / "examples.jsonl").exists()  # it had begun
    finish(tmp_path, copy, "kept")
    assert kept.read_bytes() == run.stage("kept").reference.read_bytes()
    assert exact_records(copy.root, "kept") == exact_records(run.root, "kept")
    assert tensor_digests(copy.root, "kept") == tensor_digests(run.root, "kept")


def test_another_reference_would_have_been_seen(run, tmp_path):
    copy = again(run, tmp_path, "kept")
    shutil.rmtree(copy.stage("kept").checkpoints)
    kept = json.loads(copy.stage("kept").reference.read_text())
    first = kept["said"]["train"]["pairs"][0]
    first[0] += 1e-6
    copy.stage("kept").reference.write_text(json.dumps(kept))
    finish(tmp_path, copy, "kept")
    assert tensor_digests(copy.root, "kept") != tensor_digests(run.root, "kept")


ENGINES = {
    "ddp": ("strategy=ddp",),
    "fsdp": ("strategy=fsdp",),
    **{f"zero{n}": ("strategy=deepspeed", f"zero_stage={n}") for n in (1, 2, 3)},
}


def begun_with(run, folder, precision, *settings):
    """A run of other settings that begins with the data and the weights of another."""
    copy = RunFolder(folder / "runs" / "prefer")
    make_folder(copy)
    text = (run.root.parents[1] / "prefer.yaml").read_text()
    recipe = folder / "prefer.yaml"
    recipe.write_text(text.replace("precision: fp64", f"precision: {precision}"))
    open_run(copy, load_recipe(recipe, settings))
    for stage in ("prepare", "pretrain"):
        shutil.copytree(run.stage(stage).path, copy.stage(stage).path)
    return copy


@pytest.fixture(scope="module")
def run32(run, tmp_path_factory):
    """The same in fp32, by one process."""
    folder = tmp_path_factory.mktemp("prefer32")
    copy = begun_with(run, folder, "fp32")
    shutil.rmtree(copy.stage("pretrain").path)
    finish(folder, copy, "pretrain", "live")
    return copy


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_leaves_the_adapters_out_and_goes_on_bit_for_bit(run, run32, tmp_path, engine):
    settings = [f"live.parallelism.{setting}" for setting in ENGINES[engine]]
    # ZeRO has no fp64.
    one, rel, precision = (run32, 1e-5, "fp32") if "zero" in engine else (run, 1e-9, "fp64")
    copy = begun_with(one, tmp_path, precision, *settings, "launch.processes_per_node=2")
    finish(tmp_path, copy, "live", ranks=2)
    assert losses(copy, "live") == pytest.approx(losses(one, "live"), rel=rel)
    cut = again(copy, tmp_path / "cut", "live")
    finish(tmp_path, cut, "live", ranks=2)
    assert exact_records(cut.root, "live") == exact_records(copy.root, "live")
    assert tensor_digests(cut.root, "live") == tensor_digests(copy.root, "live")
    found, known = (result_of(of, "live")["preferences"]["intervals"] for of in (copy, one))
    assert found["reward_margin"] == pytest.approx(known["reward_margin"], rel=1e3 * rel)


def test_a_reference_of_another_base_is_refused_by_a_stage_that_goes_on(run, tmp_path):
    copy = again(run, tmp_path, "kept")
    path = copy.stage("kept").reference
    content = json.loads(path.read_text())
    content["made_of"]["base"] = {"pretrain": "another"}
    path.write_text(json.dumps(content))
    codes = exit_codes(tmp_path / "ranks", 1, run_stage, copy.root, "kept")
    assert codes != [0]
    assert json.loads(path.read_text()) == content


@pytest.mark.parametrize("stage", ["kept", "live", "full"])
def test_two_ranks_lose_as_one_does(run, tmp_path, stage):
    if stage == "full" and not run.stage("full").result.exists():
        finish(tmp_path, run, "full")
    copy = RunFolder(tmp_path / "runs" / "prefer")
    shutil.copytree(run.root, copy.root, symlinks=True)
    shutil.rmtree(copy.stage(stage).path)
    finish(tmp_path, copy, stage, ranks=2)
    assert losses(copy, stage) == pytest.approx(losses(run, stage), rel=1e-9)
    margins = [
        result_of(of, stage)["preferences"]["intervals"]["reward_margin"] for of in (copy, run)
    ]
    assert margins[0] == pytest.approx(margins[1], rel=1e-9)
    # The control: the losses do move from step to step.
    assert losses(copy, stage)[-1] != pytest.approx(losses(run, stage)[0], rel=1e-6)


def test_it_is_evaluated_on_pairs_held_back_and_exported(run, tmp_path):
    finish(tmp_path, run, "evaluate", "export")
    measured = result_of(run, "evaluate")
    assert measured["measured"]["preferences"] == "kept"
    pairs = measured["preferences"]
    assert pairs["reward_margin"] == pytest.approx(
        pairs["reward_chosen"] - pairs["reward_rejected"]
    )
    assert pairs["reward_margin"] > 0
    intervals = pairs["intervals"]
    for name in ("reward_margin", "reward_accuracy", "reward_chosen", "reward_rejected"):
        found = intervals[name]
        assert found["value"] == pytest.approx(pairs[name], rel=1e-5), name
        assert found["low"] <= found["value"] <= found["high"]
    assert (run.stage("export").huggingface / "adapter" / "adapter_config.json").is_file()


def test_after_full_tuning_the_reference_is_what_the_stage_started_from(run, tmp_path):
    if not run.stage("full").result.exists():
        finish(tmp_path, run, "full")
    copy = RunFolder(tmp_path / "runs" / "prefer")
    shutil.copytree(run.root, copy.root, symlinks=True)
    copy.test_opened.unlink(missing_ok=True)  # it opens once
    shutil.rmtree(copy.stage("evaluate").path, ignore_errors=True)
    open_run(copy, load_recipe(run.root.parents[1] / "prefer.yaml", ["evaluate.needs=full"]))
    finish(tmp_path, copy, "evaluate")
    pairs = result_of(copy, "evaluate")["preferences"]
    assert pairs["reward_margin"] > 0
