"""A model that several stages make, one after the other, is whole, exact and the same after kills.

``pretrain -> anneal (kind: pretrain) -> sft -> sft2``: each begins with the whole model of the one
before. Here each stage is a process of its own (``tests.runs.forked``).
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tests.ranks  # noqa: F401  (its fork server has torch and peft loaded)
from distrain.checkpoint.dcp import read_full
from distrain.config.lora import LoraConfig
from distrain.config.reading.load import load_recipe
from distrain.finetune.lora import is_adapter, is_tuned
from distrain.finetune.merged import merge
from distrain.tools.generate import Chat, generate
from tests.runs import processes
from tests.runs.forked import FIRST_SAVE, finish, kill_after_first_save
from tests.tiny import distrain, events, exact_records, tensor_digests, write_line

TRAINED = ("pretrain", "anneal", "sft", "sft2")
FOLDERS = ("huggingface", "huggingface/base", "huggingface/adapter")
WEIGHTS = {"huggingface/adapter": "adapter_model.safetensors"}
PLAIN = LoraConfig()
SAMPLES = "{prompts: [Return the name of a file., Open], max_new_tokens: 16}"


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The recipe, and the whole run of it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("line")
    recipe = load_recipe(write_line(folder), [f"sft2.eval.samples={SAMPLES}"]).recipe
    run = folder / "tiny"
    finish(recipe, run, *recipe.stages)
    return recipe, run


def read(path: Path) -> dict:
    record: dict = json.loads(path.read_text())
    return record


def trained(run, stage):
    step = read(run / stage / "result.json")["checkpoint"]["step"]
    return read_full(run / stage / "checkpoints" / f"step_{step:06}")


def adapters(run, stage, lora=PLAIN):
    return {name: t for name, t in trained(run, stage).items() if is_tuned(name, lora)}


def start_of_sft2(recipe, run):
    """Merge what ``sft`` has trained into what it began with: the embedding, untied."""
    start, lora = trained(run, "anneal"), recipe.stages["sft"].lora
    start["lm_head.weight"] = start["model.embed_tokens.weight"]
    return merge(start, adapters(run, "sft", lora), lora)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_each_stage_begins_with_the_whole_model_of_the_one_before(line):
    _, run = line
    first: dict[str, Any] = {stage: exact_records(run, stage)[0]["eval/loss"] for stage in TRAINED}
    last: dict[str, Any] = {stage: exact_records(run, stage)[-1]["eval/loss"] for stage in TRAINED}
    assert first["anneal"] == last["pretrain"] < first["pretrain"]
    # Not of the same bits: adapters are merged, no longer beside the weights.
    assert first["sft2"] == pytest.approx(last["sft"], abs=1e-6)
    assert last["sft"] < first["sft"]
    # Schedule and data begin anew.
    opening = {stage: exact_records(run, stage)[1] for stage in TRAINED}
    assert {opening[stage]["data/first_sample"] for stage in TRAINED} == {0}
    assert {opening[stage]["train/learning_rate"] for stage in TRAINED} == {3e-3 / 5}


def test_the_frozen_weights_of_a_stage_are_the_model_before_it_bit_for_bit(line):
    recipe, run = line
    frozen = {name: t for name, t in trained(run, "sft2").items() if not is_adapter(name)}
    tuned = start_of_sft2(recipe, run)
    assert_same(frozen, tuned)
    unlike = [name for name, tensor in trained(run, "anneal").items()
              if not torch.equal(tensor, tuned[name])]  # fmt: skip
    assert len(unlike) == 2 * 7 + 2
    assert torch.equal(tuned["lm_head.weight"], trained(run, "anneal")["model.embed_tokens.weight"])


def test_an_export_holds_the_last_start_the_last_adapters_and_both_in_one(line):
    recipe, run = line
    whole, base, adapter = (
        load_file(run / "export" / folder / WEIGHTS.get(folder, "model.safetensors"))
        for folder in FOLDERS
    )
    start = start_of_sft2(recipe, run)
    assert_same(base, start)
    last = adapters(run, "sft2")
    assert_same(adapter, {f"base_model.model.{name}": tensor for name, tensor in last.items()})
    assert_same(whole, merge(start, last, recipe.stages["sft2"].lora))


def test_the_records_name_every_product_from_the_first_stage_on(line):
    _, run = line
    named: dict[str, dict] = {}
    for stage in (*TRAINED, "evaluate", "export"):
        path = run / stage / "built_on.json"
        built_on = read(path) if path.exists() else {}
        assert list(built_on.items()) == list(named.items()), stage
        if stage in TRAINED:
            checkpoint = read(run / stage / "result.json")["checkpoint"]
            named[stage] = {key: checkpoint[key] for key in ("step", "product")}


def test_the_test_split_is_measured_with_the_last_model_of_each_kind(line):
    _, run = line
    result = read(run / "evaluate/result.json")
    assert result["measured"] == {"documents": "anneal", "answers": "sft2"}
    answers = result["answers"]
    assert answers["loss"] < answers["loss_base"]


def assert_equal_runs(run, twin, stages=TRAINED):
    for stage in stages:
        assert exact_records(run, stage) == exact_records(twin, stage), stage
        assert tensor_digests(run, stage) == tensor_digests(twin, stage), stage
    for name in (
        "evaluate/result.json",
        *(f"export/{folder}/{WEIGHTS.get(folder, 'model.safetensors')}" for folder in FOLDERS),
    ):
        assert (run / name).read_bytes() == (twin / name).read_bytes(), name


def begin(twin, run):
    run.mkdir()
    shutil.copytree(twin / "prepare", run / "prepare")


def test_a_killed_stage_of_a_line_ends_as_its_twin(line, tmp_path):
    recipe, twin = line
    run = tmp_path / "tiny"
    shutil.copytree(twin, run)
    for stage in ("anneal", "sft"):
        shutil.rmtree(run / stage)
        kill_after_first_save(recipe, run, stage)
        finish(recipe, run, stage)
    assert [event["step"] for event in events(run, "resumed")] == [5, 5]
    assert_equal_runs(run, twin)


STRATEGIES: dict[str, dict[str, object]] = {
    "single": {},
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "zero2": {"strategy": "deepspeed", "zero_stage": 2},
    "zero3": {"strategy": "deepspeed", "zero_stage": 3},
}


@pytest.mark.seams
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_line_that_is_killed_in_each_stage_ends_as_its_twin(strategy, line, tmp_path):
    if strategy.startswith("zero"):
        import deepspeed  # noqa: F401  (as of peft)
    _, prepared = line
    path = write_line(tmp_path, processes=1 if strategy == "single" else 2)
    overrides = [f"parallelism.{key}={value}" for key, value in STRATEGIES[strategy].items()]
    recipe = load_recipe(path, overrides).recipe
    twin, run = tmp_path / "twin" / "tiny", tmp_path / "killed" / "tiny"
    for root in (twin, run):
        root.parent.mkdir()
        begin(prepared, root)
    finish(recipe, twin, *TRAINED, "evaluate", "export")
    for stage in TRAINED:
        kill_after_first_save(recipe, run, stage)
        finish(recipe, run, stage)
    finish(recipe, run, "evaluate", "export")
    assert [event["step"] for event in events(run, "resumed")] == [5, 5, 5, 5]
    assert_equal_runs(run, twin)


DEEPER = """\
  deeper: {kind: pretrain, needs: [prepare, sft], training: {max_steps: 1}}
  deepest: {kind: sft, needs: deeper, data: {truncation: cut}, training: {max_steps: 1}}
  export: {kind: export, needs: deepest}
"""


@pytest.mark.seams
def test_what_an_adapter_has_untied_stays_so_in_all_that_follows(line, tmp_path):
    path = write_line(tmp_path)
    head, _, rest = path.read_text().partition("  sft2:\n")
    path.write_text(head + DEEPER + rest[rest.index("launch:") :])
    overrides = [
        "optimizer.learning_rate=1e-30",
        "optimizer.weight_decay=0",
        "lr_scheduler.warmup_steps=0",
    ]
    recipe = load_recipe(path, overrides).recipe
    run = tmp_path / "tiny"
    begin(line[1], run)
    for stage in ("pretrain", "anneal", "sft"):
        shutil.copytree(line[1] / stage, run / stage)
    finish(recipe, run, "deeper", "deepest", "export")
    assert_same(trained(run, "deeper"), start_of_sft2(line[0], run))
    assert_same(
        load_file(run / "export/huggingface/base/model.safetensors"), trained(run, "deeper")
    )
    assert read(run / "export/result.json")["reload"]["compared"]


@pytest.mark.seams
def test_every_engine_trains_the_same_adapters(line, tmp_path):
    import deepspeed  # noqa: F401  (as of peft)

    losses = {}
    for strategy, settings in STRATEGIES.items():
        path = write_line(tmp_path / strategy, processes=1 if strategy == "single" else 2)
        overrides = [f"parallelism.{key}={value}" for key, value in settings.items()]
        recipe = load_recipe(path, [*overrides, "sft.model.dropout=0"]).recipe
        run = tmp_path / strategy / "tiny"
        begin(line[1], run)
        for stage in ("pretrain", "anneal"):
            shutil.copytree(line[1] / stage, run / stage)
        finish(recipe, run, "sft")
        found = [record["train/loss"] for record in exact_records(run, "sft")]
        losses[strategy] = [loss for loss in found if loss is not None]
    for strategy, found in losses.items():
        assert found == pytest.approx(losses["single"], rel=1e-5), strategy
    assert len(losses["single"]) == 10


@pytest.mark.seams
def test_a_launcher_that_is_killed_in_each_stage_goes_on_to_the_same_end(tmp_path):
    """As a user has it: two ranks under FSDP2, the whole job killed once in each stage."""
    recipe = write_line(tmp_path, processes=2)
    twin, run = tmp_path / "twin" / "tiny", tmp_path / "killed" / "tiny"
    made = distrain(twin.parent, "run", str(recipe))
    assert made.returncode == 0, made.stdout + made.stderr
    for stage in TRAINED:
        launcher = processes.start(run.parent, recipe)
        assert processes.wait_for_stage(run, stage, launcher), stage
        while not (run / stage / "checkpoints" / FIRST_SAVE).exists():
            time.sleep(0.01)
        family = processes.family(launcher)
        processes.kill(family[:1])
        launcher.wait()
        processes.assert_no_orphans(family)
    ended = distrain(run.parent, "run", str(recipe))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert_equal_runs(run, twin)


def test_control_another_start_gives_another_model(line, tmp_path):
    """As if ``anneal`` had begun with the checkpoint before the last one."""
    recipe, twin = line
    run = tmp_path / "tiny"
    begin(twin, run)
    shutil.copytree(twin / "pretrain", run / "pretrain")
    path = run / "pretrain/result.json"
    content = read(run / f"pretrain/checkpoints/{FIRST_SAVE}/commit.json")["commit"]["content"]
    path.write_text(json.dumps(read(path) | {"checkpoint": {"step": 5, **content}}))
    finish(recipe, run, "anneal")
    found, expected = exact_records(run, "anneal"), exact_records(twin, "anneal")
    assert [r["data/batch_hash"] for r in found] == [r["data/batch_hash"] for r in expected]
    losses, others = (
        [record["train/loss"] for record in records if record["train/loss"] is not None]
        for records in (found, expected)
    )
    assert len(losses) == len(others) == 10
    assert not set(losses) & set(others)
    assert found[0]["eval/loss"] != expected[0]["eval/loss"]
    assert read(run / "anneal/built_on.json")["pretrain"]["step"] == 5


FROM_FOLDER = """\
name: tiny
defaults:
  training: {{sequence_length: 64, global_batch_size: 8, micro_batch_size: 2, max_steps: 1}}
  optimizer: {{learning_rate: 1e-30, weight_decay: 0.0}}
  eval: {{max_batches: 2}}
  checkpoint: {{save_steps: 5}}
stages:
  prepare:
    kind: prepare
    data: {{source: {{kind: files, paths: [corpus]}}}}
    tokenizer: {{path: "{tokenizer}"}}
    pairs: {{kind: docstrings}}
  longer:
    kind: pretrain
    needs: prepare
    model: {{from_pretrained: "{model}"}}
  own:
    kind: sft
    needs: prepare
    model: {{from_pretrained: "{model}"}}
    data: {{truncation: cut}}
    lora: {{r: 2}}
  own2:
    kind: sft
    needs: own
    data: {{truncation: cut}}
    lora: {{r: 2}}
    training: {{max_steps: 10}}
    optimizer: {{learning_rate: 1e-2}}
  deeper: {{kind: pretrain, needs: own2}}
  export: {{kind: export, needs: longer, reload: false}}
  tuned: {{kind: export, needs: own2, reload: false}}
"""


def from_folder(twin, folder):
    """Make the recipe whose stages start from what ``twin`` has exported, and its run folder."""
    model = twin / "export/huggingface"
    path = folder / "tiny.yaml"
    path.write_text(FROM_FOLDER.format(model=model, tokenizer=model / "tokenizer.json"))
    run = folder / "tiny"
    begin(twin, run)
    return load_recipe(path).recipe, run, load_file(model / "model.safetensors")


def test_pretraining_goes_on_from_a_folder(line, tmp_path):
    recipe, run, expected = from_folder(line[1], tmp_path)
    finish(recipe, run, "longer", "export")
    # A step of 1e-30 changes no bit, so what is there at the end was there at the start.
    assert_same(load_file(run / "export/huggingface/model.safetensors"), expected)
    assert not (run / "longer/built_on.json").exists()


@pytest.mark.seams
def test_a_folder_is_tuned_twice_and_then_pretrained(line, tmp_path):
    recipe, run, expected = from_folder(line[1], tmp_path)
    finish(recipe, run, "own")
    kill_after_first_save(recipe, run, "own2")
    finish(recipe, run, "own2", "tuned")
    base, whole = (
        load_file(run / f"tuned/huggingface{sub}/model.safetensors") for sub in ("/base", "")
    )
    assert_same(base, expected)  # after a step of 1e-30, B is too small to change a bit
    assert_same(whole, merge(base, adapters(run, "own2"), recipe.stages["own2"].lora))
    assert list(read(run / "tuned/built_on.json")) == ["own", "own2"]
    finish(recipe, run, "deeper")
    assert_same(trained(run, "deeper"), whole)
    assert list(read(run / "deeper/built_on.json")) == ["own", "own2"]


def test_an_export_writes_what_the_model_wrote_at_the_end(line):
    _, run = line
    lines = (run / "sft2" / "samples.jsonl").read_text().splitlines()
    *first, before_last, last = map(json.loads, lines)
    assert [first[0]["train/global_step"], last["train/global_step"]] == [0, 10]
    folder = run / "export" / "huggingface"
    plain = []
    for record in (before_last, last):
        asked = record["prompt"]
        assert generate(folder, asked, chat=Chat(), max_new_tokens=16) == record["text"]
        plain.append(generate(folder, asked, max_new_tokens=16))
    # Control: laid out otherwise, the same model writes another text.
    assert plain != [before_last["text"], last["text"]]
