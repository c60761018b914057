"""What the files of a recipe say against it is found before anything is started or queued."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from distrain.config.chats import SftDataConfig
from distrain.config.huggingface import weight_files, weights_problem
from distrain.config.reading.load import load_recipe
from distrain.config.reading.problems import RecipeErrors
from distrain.data.chats.reading import read_examples
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.errors import DataError, PreflightError
from distrain.models.huggingface import load_huggingface
from distrain.runs.records import write_json
from launcher.commands import cli
from launcher.inputs import sources
from launcher.inputs.checks import check_inputs
from launcher.inputs.parquet import parquet_columns
from launcher.inputs.tokenizers import tokenizer_problem, vocabulary_size
from launcher.planning import load_to_resume, load_to_start
from launcher.run_files import make_folder, open_run, run_of
from tests.distrain.config.reading.test_mistakes import expectations
from tests.launcher.small_run import ROOT

MISTAKES = Path(__file__).parents[2] / "recipes" / "mistakes" / "inputs"
FILES = sorted(MISTAKES.glob("*.yaml"))

SFT = """\
name: tuned
stages:
  sft:
    kind: sft
    model: {from_pretrained: models/good}
    data: {path: data/pairs.jsonl}
    training: {max_steps: 4, sequence_length: 64}
    lora: {target_modules: [q_proj]}
"""
SHAPE_NOTE = "sft: data.path: pairs.jsonl: prompt and answer, 8 rows looked at"
PREPARE = """\
name: texts
stages:
  prepare:
    kind: prepare
    data: {source: {kind: files, paths: [texts]}, skip_budget: 3}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the seeded files, and the current folder."""
    shutil.copytree(MISTAKES, tmp_path / "inputs")
    monkeypatch.chdir(tmp_path / "inputs")
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.delenv("DISTRAIN_SITE", raising=False)
    return tmp_path / "inputs"


def notes_of(text: str, *overrides: str) -> tuple[str, ...]:
    Path("recipe.yaml").write_text(text)
    return check_inputs(load_recipe(Path("recipe.yaml"), overrides)).notes


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_mistake_is_shown_at_its_place_with_its_remedy(file, monkeypatch):
    monkeypatch.chdir(MISTAKES)
    with pytest.raises(RecipeErrors) as caught:
        check_inputs(load_recipe(Path(file.name)))
    found = [(str(problem.place), problem.message) for problem in caught.value.problems]
    for (place, message), (expected, phrase) in zip(
        found, expectations(file.read_text()), strict=True
    ):
        assert place == f"{file.name}:{expected}"
        assert phrase in message


@pytest.mark.parametrize(
    ("command", "overrides"), [("validate", ()), ("run", ()), ("submit", ("launch.backend=slurm",))]
)
def test_every_command_refuses_before_anything_is_queued(
    command, overrides, folder, capsys, monkeypatch
):
    sbatch = folder / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\ntouch queued\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    assert cli.main([command, "all_that_the_files_say.yaml", *overrides]) == 3
    assert capsys.readouterr().err.endswith("3 errors. Nothing was started.\n")
    assert not (folder / "queued").exists()
    assert not (folder.parent / "runs").exists()


@pytest.mark.usefixtures("folder")
def test_a_folder_and_pairs_that_fit_are_taken():
    assert notes_of(SFT) == (SHAPE_NOTE,)


@pytest.mark.parametrize(
    "name", ["bloom", "scaled", "no_weights", "lfs"]
)  # what the runtime refuses, too
def test_launcher_and_runtime_refuse_the_same_model_folders(name, folder):
    with pytest.raises(RecipeErrors):
        notes_of(SFT.replace("models/good", f"models/{name}"))
    with pytest.raises(PreflightError):
        load_huggingface(folder / "models" / name)


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        "{",
        '{"model_type": ["llama"]}',
        '{"model_type": "llama"}',
        '{"model_type": "llama", "hidden_size": "many", "num_attention_heads": "2"}',
        '{"model_type": "llama", "rope_scaling": 3, "vocab_size": null, "hidden_size": 16, '
        '"num_hidden_layers": 1, "num_attention_heads": 2}',
    ],
)
def test_a_damaged_config_is_refused_and_never_a_crash(config, folder):
    (folder / "models" / "good" / "config.json").write_text(config)
    with pytest.raises(RecipeErrors, match=r"models/good/config\.json: found"):
        notes_of(SFT)


@pytest.mark.parametrize("index", ["[]", '{"weight_map": []}', '{"weight_map": {"a": "b"}}'])
def test_a_list_of_weights_that_are_not_there_is_refused(index, folder):
    (folder / "models" / "good" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(RecipeErrors, match=r"model\.from_pretrained: "):
        notes_of(SFT)


def test_weights_are_whole_when_their_header_says_so(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3, 2), "b": torch.zeros(5)}, file, metadata={"format": "pt"})
    whole = file.read_bytes()
    assert weights_problem(file) is None
    for damaged in (whole[:-1], whole + b"\0", whole[:40], whole[:5], b""):
        file.write_bytes(damaged)
        assert weights_problem(file)
        with pytest.raises(SafetensorError):
            load_file(file)


@pytest.mark.parametrize(
    "header",
    [
        '{"w": {"data_offsets": 5}}',
        '{"w": {"data_offsets": [0]}}',
        '{"v": {"data_offsets": [0, "1"]}, "w": {"data_offsets": [0, 1]}}',
        "[" * 100_000,
    ],
)
def test_an_absurd_header_is_damage_and_no_crash(header, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"x")
    assert weights_problem(file)


def test_absurd_lists_of_weights_and_tokenizers_are_damage_and_no_crash(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": [1], "b": 2}}')
    assert not any(file.exists() for file in weight_files(tmp_path))
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    assert "no tokenizer" in str(tokenizer_problem(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_the_size_of_a_vocabulary_is_that_of_the_tokenizer(model, tmp_path):
    text = train_tokenizer(
        ["some words of a text, and some more"] * 50, vocab_size=300, min_frequency=2, model=model
    )
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    assert vocabulary_size(file) == Tokenizer.load(file).vocab_size


@pytest.mark.parametrize("row", ["[1]", "{", '{"prompt": "a"}', '{"prompt": "a", "answer": " "}'])
def test_a_row_that_is_no_pair_is_refused_here_and_in_the_stage(row, folder):
    pairs = folder / "data" / "pairs.jsonl"
    pairs.write_text(pairs.read_text() + f"\n{row}\n")
    with pytest.raises(RecipeErrors, match=r"pairs\.jsonl:10: "):
        notes_of(SFT)
    with pytest.raises(DataError, match=r"pairs\.jsonl:10: "):
        read_examples(SftDataConfig(path=str(pairs)), stage_kind="sft")


def test_a_stage_that_is_done_reads_its_files_no_more(monkeypatch):
    monkeypatch.chdir(MISTAKES)
    loaded = load_recipe(Path("preference_for_sft.yaml"))
    assert check_inputs(loaded, done={"sft"}).notes == ()
    with pytest.raises(RecipeErrors):
        check_inputs(loaded, done={"other"})


@pytest.mark.usefixtures("folder")
def test_a_run_goes_on_though_what_a_done_stage_read_is_another_now():
    Path("recipe.yaml").write_text(SFT)
    run = run_of(load_recipe(Path("recipe.yaml")).recipe)
    make_folder(run)
    open_run(run, load_recipe(Path("recipe.yaml")))
    for path in Path("models/good").iterdir():
        path.write_text("another file now")
    for load in (lambda: load_to_start("recipe.yaml", ()), lambda: load_to_resume(run, ())):
        with pytest.raises(RecipeErrors):
            load()
    write_json(run.stage("sft").state, {"state": "done", "attempt": 1, "step": 1})
    load_to_start("recipe.yaml", ())
    load_to_resume(run, ())


@pytest.mark.usefixtures("folder")
def test_files_of_another_machine_are_noted_by_validate(capsys):
    text = SFT.replace("models/good", "/of/the/cluster/model")
    assert notes_of(text) == (SHAPE_NOTE,)
    assert cli.main(["validate", "recipe.yaml"]) == 0
    assert (
        "note: sft.model.from_pretrained: '/of/the/cluster/model', where there is nothing; it was "
        "not looked at\n"
    ) in capsys.readouterr().out


def texts(**files: str | bytes) -> None:
    Path("texts").mkdir()
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        Path("texts", name.replace("__", ".")).write_bytes(data)


GOOD = '{"text": "some words"}\n'
BAD = '{"body": "some words"}\n'


@pytest.mark.usefixtures("folder")
def test_few_rows_without_text_are_noted_and_more_than_the_budget_refused():
    texts(a__jsonl=GOOD * 20, b__jsonl=BAD * 3)
    [note] = notes_of(PREPARE)
    assert "3 of the first 23 rows have no text in 'text'" in note
    with pytest.raises(RecipeErrors, match="found 3 of the first 23 rows"):
        notes_of(PREPARE, "data.skip_budget=2")


@pytest.mark.usefixtures("folder")
def test_rows_are_read_through_gzip_and_past_byte_order_mark_and_blank_lines():
    texts(a__jsonl__gz=gzip.compress(BAD.encode() * 2), b__jsonl=b"\xef\xbb\xbf\n" + GOOD.encode())
    assert "2 of the first 3 rows" in notes_of(PREPARE)[0]


@pytest.mark.usefixtures("folder")
def test_a_row_longer_than_what_is_read_is_not_judged():
    texts(a__jsonl=json.dumps({"body": "x" * 2**20}) + "\n", b__jsonl=GOOD)
    assert notes_of(PREPARE) == ()


@pytest.mark.usefixtures("folder")
def test_hidden_files_text_and_what_cannot_be_opened_are_left_to_prepare():
    texts(a__txt="words", b__jsonl__zst=b"no zstd", c__arrow=b"ARROW1", d__parquet=b"no parquet")
    Path("texts/.hidden.jsonl").write_text(BAD)
    assert notes_of(PREPARE) == ()


@pytest.mark.usefixtures("folder")
def test_no_more_files_are_opened_than_a_shared_disk_can_bear(monkeypatch):
    texts(**{f"{number}__jsonl": BAD for number in range(5)})
    monkeypatch.setattr(sources, "MAX_FILES", 2)
    with pytest.raises(RecipeErrors, match="found 2 of the first 2 rows"):
        notes_of(PREPARE)


@pytest.mark.usefixtures("folder")
def test_a_parquet_file_without_the_column_is_refused():
    texts()
    rows = pyarrow.table({"body": ["a"], "meta": [{"text": "b", "tags": ["c"]}]})
    parquet.write_table(rows, "texts/a.parquet")
    with pytest.raises(RecipeErrors, match="set it to one of body, meta"):
        notes_of(PREPARE)
    assert notes_of(PREPARE, "data.source.text_field=body") == ()
    with pytest.raises(RecipeErrors, match=r"label_field: found 'kind'"):
        notes_of(PREPARE, "data.source.text_field=body", "data.source.label_field=kind")


def test_the_columns_of_a_parquet_file_are_those_that_pyarrow_reads(tmp_path):
    nested = {"one": [1], "deep": [{"a": {"b": [1.5]}, "text": ["x"]}], "text": ["t"], "ü": [True]}
    wide = {f"column_{number}": [number] for number in range(40)}
    for number, columns in enumerate((nested, wide, {"text": []})):
        table = pyarrow.table(columns)
        file = tmp_path / f"{number}.parquet"
        parquet.write_table(table, file)
        assert parquet_columns(file) == table.schema.names


def test_a_damaged_parquet_footer_tells_nothing(tmp_path):
    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["t"] * 9}), file)
    whole = file.read_bytes()
    for cut in range(1, len(whole), 7):
        file.write_bytes(whole[:cut] + whole[-8:])
        assert parquet_columns(file) in (None, ["text"], [])


def test_a_list_longer_than_its_file_does_not_keep_the_command(tmp_path):
    endless = bytes([0x19, 0xF3, *[0xFF] * 7, 0x7F])  # field 1: a list of 2^56 bytes, none there
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1" + endless + len(endless).to_bytes(4, "little") + b"PAR1")
    code = "import sys; from pathlib import Path; from launcher.inputs.parquet import *; "
    code += "sys.exit(parquet_columns(Path(sys.argv[1])) is not None)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0


def test_a_tokenizer_that_ends_no_document_is_named_before_the_queue(tmp_path):
    file = tmp_path / "tokenizer.json"
    content: dict[str, object] = {"model": {"vocab": {"a": 0, "<|endoftext|>": 1}}}
    file.write_text(json.dumps(content))
    assert "without an end-of-text token" in str(tokenizer_problem(file))
    (tmp_path / "config.json").write_text("{}")
    assert "without an end-of-text token" in str(tokenizer_problem(file))
    (tmp_path / "tokenizer_config.json").write_text("[")
    assert "tokenizer_config.json: found" in str(tokenizer_problem(file))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "a"}}')
    assert tokenizer_problem(file) is None
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text('{"eos_token_id": 0}')
    assert tokenizer_problem(file) is None
    (tmp_path / "config.json").unlink()
    file.write_text(json.dumps(content | {"added_tokens": [{"id": 1, "content": "<|endoftext|>"}]}))
    assert tokenizer_problem(file) is None
