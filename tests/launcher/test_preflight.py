import json
import shutil
from types import SimpleNamespace

import pytest

from distrain.config.models import LlamaConfig
from distrain.config.reading.load import load_recipe
from distrain.config.recipe import SftStage
from distrain.runs.folder import RunFolder
from distrain.runs.records import write_json
from launcher import preflight
from launcher.estimate import (
    checkpoint_bytes,
    kept_checkpoint_bytes,
    stage_model,
    stage_parameters,
    stage_vocab_size,
)
from launcher.memory import method_memory
from launcher.preflight import (
    UnfitMachineError,
    check_machine,
    check_submission,
    missing_gpus,
    missing_modules,
    missing_paths,
    missing_space,
)
from tests.launcher.small_run import load_small, new_run, write_recipe
from tests.tiny import write_line

SFT = """\
name: own
stages:
  sft:
    kind: sft
    model: {from_pretrained: no/such/model}
    data: {path: no/pairs.jsonl}
    training: {max_steps: 1}
    parallelism: {strategy: deepspeed}
    logging: {wandb: {project: p}}
"""


def test_missing_packages_name_the_extra_that_brings_them(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, SFT)).recipe
    errors = list(missing_modules(recipe, find=lambda module: None))
    assert [error.expected for error in errors] == [
        "the packages of the extra 'deepspeed'",
        "the packages of the extra 'train'",
        "the packages of the extra 'wandb'",
    ]
    assert "torch" in errors[1].found
    assert "peft" in errors[1].found
    assert 'pip install "distrain[train]"' in str(errors[1])


def test_an_optimizer_names_the_extra_that_brings_it(tmp_path):
    text = SFT.replace("strategy: deepspeed}", "strategy: fsdp}\n    optimizer: {name: adamw_8bit}")
    recipe = load_recipe(write_recipe(tmp_path, text)).recipe
    errors = list(missing_modules(recipe, find=lambda module: None))
    assert "the packages of the extra 'bitsandbytes'" in [error.expected for error in errors]


def test_only_what_the_stages_use_is_asked_for(tmp_path):
    errors = list(missing_modules(load_small(tmp_path).recipe, find=lambda module: None))
    assert len(errors) == 1
    assert "peft" not in errors[0].found
    assert not list(missing_modules(load_small(tmp_path).recipe, find=lambda module: module))


def test_paths_that_do_not_exist_are_all_named(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, SFT)).recipe
    assert [error.where for error in missing_paths(recipe)] == [
        "sft.model.from_pretrained",
        "sft.data.path",
    ]


def test_a_dataset_of_the_hub_that_is_written_as_a_path_is_told_its_setting(tmp_path):
    text = SFT.replace("no/pairs.jsonl", "org/chats")
    _, error = missing_paths(load_recipe(write_recipe(tmp_path, text)).recipe)
    assert "Of the hub: sft.data.source: {kind: hub, path: org/chats} in its" in error.remedy
    deeper = SFT.replace("no/pairs.jsonl", "here/org/chats")
    _, error = missing_paths(load_recipe(write_recipe(tmp_path, deeper)).recipe)
    assert "kind: hub" not in error.remedy


def test_sources_of_examples_need_their_paths_and_the_modules_of_their_stores(tmp_path):
    data = "s3://b/chats.jsonl, validation: {kind: hub, path: org/a}}"
    text = SFT.replace("no/pairs.jsonl}", data)
    recipe = load_recipe(write_recipe(tmp_path, text)).recipe
    assert [error.where for error in missing_paths(recipe)] == ["sft.model.from_pretrained"]
    found = [error.found for error in missing_modules(recipe, find=lambda module: None)]
    assert any("s3fs" in modules for modules in found)
    assert any("datasets" in modules for modules in found)


def test_a_stage_that_is_done_needs_neither_its_files_nor_its_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "gpu_names", list)
    source = "prepare.data.source={kind: files, paths: [moved/away]}"
    plan = new_run(tmp_path, source, "pretrain.training.device=cuda")
    with pytest.raises(UnfitMachineError) as caught:
        check_machine(plan)
    where = [problem.where for problem in caught.value.problems]
    assert where == ["prepare.data.source.paths", "pretrain.training.device"]
    with pytest.raises(UnfitMachineError):
        check_submission(plan.recipe, plan.run.root)
    for name in ("prepare", "pretrain"):
        write_json(plan.run.stage(name).state, {"state": "done", "attempt": 1, "step": 25})
    check_machine(plan)
    check_submission(plan.recipe, plan.run.root)


def test_a_source_that_holds_the_run_itself_is_refused_here_and_before_the_queue(tmp_path):
    plan = new_run(tmp_path, f"prepare.data.source={{kind: files, paths: ['{tmp_path}']}}")
    with pytest.raises(UnfitMachineError, match="which holds the folder of this run"):
        check_machine(plan)
    with pytest.raises(UnfitMachineError, match="which holds the folder of this run"):
        check_submission(plan.recipe, plan.run.root)


def test_a_pattern_is_good_when_something_matches(tmp_path):
    (tmp_path / "one.txt").write_text("text")
    for pattern, count in (("*.txt", 0), ("*.md", 1), ("one.txt", 0), ("", 0)):
        recipe = load_small(
            tmp_path, f"prepare.data.source={{kind: files, paths: ['{tmp_path}/{pattern}']}}"
        ).recipe
        assert len(list(missing_paths(recipe))) == count, pattern


def test_urls_are_no_paths_and_need_the_module_of_their_store(tmp_path):
    paths = "['s3://bucket/texts', 'memory://x', 'https://host/a?b=*']"
    source = f"prepare.data.source={{kind: files, paths: {paths}, storage_options: {{anon: true}}}}"
    recipe = load_small(tmp_path, source).recipe
    assert not list(missing_paths(recipe))
    missing = {"s3fs", "aiohttp"}
    [error] = missing_modules(recipe, find=lambda name: None if name in missing else name)
    assert error.found == "no aiohttp, s3fs"
    assert 'pip install "distrain[remote]"' in error.remedy


def token_source(tmp_path, paths, **settings):
    section = {"kind": "tokens", "format": "megatron", "paths": paths} | settings
    return load_small(
        tmp_path, "pairs.kind=none", f"prepare.data.source={json.dumps(section)}"
    ).recipe


def test_missing_token_files_and_their_tokenizer_are_named(tmp_path):
    recipe = token_source(tmp_path, ["no/web", f"{tmp_path}/*.bin"], tokenizer="no/tokenizer.json")
    assert [(error.where, error.expected) for error in missing_paths(recipe)] == [
        ("prepare.data.source.tokenizer", "a file"),
        ("prepare.data.source.paths", "an existing file, folder or pattern of token files"),
        ("prepare.data.source.paths", "an existing file, folder or pattern of token files"),
    ]
    (tmp_path / "web.bin").write_bytes(b"")
    (tmp_path / "tokenizer.json").write_text("{}")
    there = [f"{tmp_path}/web", f"{tmp_path}/*.bin", f"{tmp_path}/web.bin"]
    recipe = token_source(tmp_path, there, tokenizer=f"{tmp_path}/tokenizer.json")
    assert not list(missing_paths(recipe))


def test_published_tokens_need_the_module_of_their_store_and_folders_a_split(tmp_path):
    (tmp_path / "run" / "train").mkdir(parents=True)
    paths = ["s3://bucket/corpus", f"{tmp_path}/run", f"{tmp_path}/other"]
    recipe = token_source(tmp_path, paths, format="distrain")
    [error] = missing_paths(recipe)
    assert (error.expected, "/other" in error.found) == (
        "the folder of a finished prepare stage",
        True,
    )
    [missing] = missing_modules(recipe, find=lambda name: None if name == "s3fs" else name)
    assert missing.found == "no s3fs"


def test_a_path_below_the_home_folder_is_found_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "one[1].txt").write_text("text")
    for path, count in (("~/one[1].txt", 0), ("~/*.txt", 0), ("~/two.txt", 1)):
        source = f"prepare.data.source={{kind: files, paths: ['{path}']}}"
        assert len(list(missing_paths(load_small(tmp_path, source).recipe))) == count, path


@pytest.fixture
def disk(monkeypatch):
    """A disk of which a test says how many bytes are free."""
    usage = SimpleNamespace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    return usage


def test_checkpoints_that_do_not_fit_on_the_disk_are_refused(tmp_path, disk):
    recipe = load_small(tmp_path).recipe
    needed = sum(kept_checkpoint_bytes(recipe).values())
    for disk.free, count in ((needed, 0), (needed - 1, 1)):
        assert len(list(missing_space(recipe, tmp_path / "not" / "yet"))) == count


def test_space_that_the_runs_own_checkpoints_hold_is_not_asked_for_again(tmp_path, disk):
    recipe = load_small(tmp_path, "pretrain.checkpoint.keep_last=2").recipe
    (needed,) = kept_checkpoint_bytes(recipe).values()
    folder = RunFolder(tmp_path).stage("pretrain")
    for step in (10, 20):
        part = folder.checkpoints / f"step_{step:06d}" / "__0_0.distcp"
        part.parent.mkdir(parents=True)
        part.write_bytes(bytes(needed // 3))
    (tmp_path / "large").write_bytes(bytes(needed))
    (folder.checkpoints / "step_000010" / "link").symlink_to(tmp_path / "large")
    left = needed - 2 * (needed // 3)
    for disk.free, count in ((left, 0), (left - 1, 1)):
        assert len(list(missing_space(recipe, tmp_path))) == count
    write_json(folder.state, {"state": "done", "attempt": 1, "step": 20})
    disk.free = 0  # nothing is left to be written
    assert not list(missing_space(recipe, tmp_path))


def test_gpus_that_are_not_there_are_refused_before_anything_starts(tmp_path, monkeypatch):
    plan = new_run(tmp_path, "pretrain.training.device=cuda", processes=2)
    monkeypatch.setattr(preflight, "gpu_names", lambda: ["A"])
    assert [str(e) for e in missing_gpus(plan)] == [
        "pretrain.training.device: found cuda for 2 processes and 1 GPU; expected a GPU for each "
        "process of this machine. Set launch.processes_per_node=1."
    ]
    monkeypatch.setattr(preflight, "gpu_names", lambda: ["A", "B"])
    assert not list(missing_gpus(plan))


def test_everything_that_is_missing_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "gpu_names", list)
    plan = new_run(
        tmp_path,
        "pretrain.training.device=cuda",
        "prepare.tokenizer.path=no/tokenizer.json",
    )
    with pytest.raises(UnfitMachineError) as caught:
        check_machine(plan)
    assert len(caught.value.problems) == 2
    assert str(caught.value).splitlines()[-1] == "2 errors. Nothing was started."


def test_threads_that_must_share_processors_are_only_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "gpu_names", list)
    monkeypatch.setattr(preflight, "available_cpus", lambda: 2)
    assert not check_machine(new_run(tmp_path))
    notes = check_machine(new_run(tmp_path, "name=other", "pretrain.training.num_threads=8"))
    assert notes == ["8 threads share 2 processors: the run will be slow"]


def test_parameters_are_those_of_the_model(tmp_path):
    recipe = load_small(
        tmp_path,
        "pretrain.model.hidden_size=8",
        "pretrain.model.num_attention_heads=2",
        "pretrain.model.num_key_value_heads=1",
        "pretrain.model.num_hidden_layers=3",
        "pretrain.model.intermediate_size=16",
        "prepare.tokenizer.vocab_size=300",
    ).recipe
    attention = 8 * 8 * 2 + 8 * 4 * 2
    layer = attention + 3 * 8 * 16 + 2 * 8
    assert stage_parameters(recipe, "pretrain") == 2 * 300 * 8 + 3 * layer + 8
    assert checkpoint_bytes(recipe, "pretrain") == 12 * (2 * 300 * 8 + 3 * layer + 8)


def test_the_model_of_every_stage_of_a_line_is_as_large_as_the_first_one_makes_it(tmp_path):
    recipe = tmp_path / "line.yaml"
    recipe.write_text(write_line(tmp_path).read_text().replace("[prepare, pretrain]", "pretrain"))
    line = load_recipe(recipe).recipe
    sizes = {name: stage_parameters(line, name) for name in ("pretrain", "anneal", "sft", "sft2")}
    size, untied = sizes["pretrain"], sizes["sft2"]
    assert size is not None
    assert untied is not None
    # The first stage with adapters trains the embedding beside them, which unties it for good.
    rows, begun = stage_vocab_size(line, "pretrain"), stage_model(line, "pretrain")
    assert isinstance(begun, LlamaConfig)
    assert rows is not None
    assert sizes == {"pretrain": size, "anneal": size, "sft": untied, "sft2": untied}
    assert untied == size + rows * begun.hidden_size
    bytes_of = {name: checkpoint_bytes(line, name) for name in ("anneal", "sft2")}
    assert bytes_of == {"anneal": 12 * size, "sft2": 4 * untied}
    quantized = load_recipe(recipe, ["sft2.lora.quantization={}", "sft2.lora.r=4"]).recipe
    sft = quantized.stages["sft2"]
    assert isinstance(sft, SftStage)
    model = stage_model(quantized, "sft2")
    assert isinstance(model, LlamaConfig)
    trained = method_memory(sft, model, rows, 1)["qlora"].trained
    assert checkpoint_bytes(quantized, "sft2") == 12 * trained < size
    own = load_recipe(
        recipe, ["pretrain.model.from_pretrained=mine", "prepare.tokenizer.path=mine/t.json"]
    ).recipe
    assert stage_parameters(own, "sft2") is None  # the folder says how large it is
    assert [error.where for error in missing_paths(own)] == [
        "prepare.tokenizer.path",
        "pretrain.model.from_pretrained",
    ]
