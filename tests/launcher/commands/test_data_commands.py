import json
import shutil
import subprocess
from functools import partial
from typing import get_args

import numpy as np
import pytest

from distrain.config.data import SPLITS
from distrain.config.token_sources import TokenDtype
from distrain.data.adapters import ADAPTERS
from distrain.data.adapters.npy import DTYPES
from launcher.commands import cli, data_commands
from launcher.commands.data_text import document_text, inspection_text, verified_text
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.launcher.small_run import new_run
from tests.tiny import command, environment


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Make a run whose prepare stage is done, with one text that a terminal would obey."""
    folder = tmp_path_factory.mktemp("data")
    run = new_run(folder).run
    for split in SPLITS:
        write_split(run.stage("prepare").path, split, [*make_texts(8), "red \x1b[31m"])
    return run


@pytest.fixture(autouse=True)
def elsewhere(run, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(run.root.parent))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def distrain(capfd):
    """Run a `distrain data` command; returns exit code, stdout, stderr."""

    def invoke(*argv):
        code = cli.main(["data", *argv])
        return code, *capfd.readouterr()

    return invoke


def test_a_run_by_name_is_inspected(distrain, run):
    code, out, err = distrain("inspect", "small")
    assert (code, err) == (0, "")
    for split in SPLITS:
        assert f"{split}/main  {run.root / 'prepare' / split / 'main'}" in out
    assert out.count("document lengths") == 2
    assert "not looked at: the test split is for evaluate alone" in out


def test_the_inspection_of_a_split_is_json(distrain, run):
    code, out, _ = distrain("inspect", str(run.root / "prepare" / "train"), "--json")
    (part,) = json.loads(out)["result"]["parts"]
    assert (code, part["documents"], part["split"]) == (0, 9, "train")


def test_a_sample_shows_text_and_nothing_a_terminal_obeys(distrain):
    code, out, _ = distrain("sample", "--document", "8")  # of the latest run
    head, text = out.splitlines()
    assert code == 0
    assert head.startswith("--- train/main: document 8 of 9, ")
    assert head.endswith(", made/8.txt")
    assert text == "red \\x1b[31m[<|endoftext|> 0]"


@pytest.mark.data
def test_samples_differ_by_seed_and_are_one_json_a_line(distrain):
    shown = []
    for seed in ("0", "0", "1"):
        _, out, _ = distrain("sample", "small", "--number", "2", "--seed", seed, "--json")
        shown.append([d["document"] for d in json.loads(out)["result"]["documents"]])
    assert shown[0] == shown[1]
    assert shown[1] != shown[2]


@pytest.mark.data
def test_the_test_split_is_not_sampled(distrain, run):
    for argv in (["--split", "test"], [str(run.root / "prepare" / "test")]):
        code, out, err = distrain("sample", *argv)
        assert (code, out) == (4, "")
        assert "opening the test split" in err
        assert "Traceback" not in err


def test_damage_is_named_and_code_4(distrain, run, tmp_path):
    copy = tmp_path / "prepare"
    shutil.copytree(run.root / "prepare", copy)
    assert distrain("verify", str(copy))[0] == 0
    with (copy / "train" / "main" / "00000.bin").open("r+b") as file:
        file.write(b"\xff\xff")
    code, out, err = distrain("verify", str(copy))
    assert code == 4
    assert f"{copy}/train/main/00000.bin: found other content in block 0" in out
    assert out.count("whole    ") == 2
    assert err == "error: 1 problem found; each is named above\n"
    code, out, err = distrain("verify", str(copy), "--json")
    assert (code, json.loads(out)["result"]["damaged"], err) == (4, 1, "")


@pytest.mark.data
def test_foreign_files_are_inspected_verified_and_sampled(distrain, run, tmp_path):
    ids = np.array([40, 41, 0, 42, 0], np.uint16)
    ids.tofile(tmp_path / "bare.npy")
    code, out, err = distrain("inspect", "./bare.npy")
    assert (code, out) == (4, "")
    assert "without a header, and no dtype" in err
    known = ["./bare.npy", "--dtype", "uint16", "--tokenizer", str(run.root / "prepare")]
    code, out, _ = distrain("inspect", *known)
    assert code == 0
    assert "ending with it     2 of 2 documents sampled" in out
    assert distrain("verify", *known)[0] == 0
    code, out, _ = distrain("sample", *known, "--document", "1", "--tokens")
    assert code == 0
    assert out.splitlines()[-1].split() == ["0", "<|endoftext|>"]
    code, _, err = distrain("sample", "./bare.npy", "--dtype", "uint16", "--eos-id", "0")
    assert code == 4
    assert "no tokenizer; expected the tokenizer.json" in err


# Each asks a process of the runtime, which imports torch first.
slow = partial(pytest.param, marks=pytest.mark.data)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["inspect", "./missing"], 7, "nothing there"),
        (["inspect", "nosuchrun"], 7, "none of that name"),
        slow(["inspect", "empty"], 4, "no token files"),
        slow(["inspect", "*.nothing"], 4, "nothing of that name"),
        slow(["sample", "--source", "web"], 4, "no source 'web' in the train split"),
        (["sample", "--document", "9"], 4, "document 9 of 9; expected a number from 0 to 8"),
        slow(["sample", "--tokenizer", "t.json"], 4, "no such file"),
        (["inspect", "--format", "mds"], 2, "'mds'"),
        (["sample", "--number", "0"], 2, "--number"),
    ],
)
def test_bad_input_is_a_message(distrain, tmp_path, argv, code, message):
    (tmp_path / "empty").mkdir()
    found, out, err = distrain(*argv)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_a_run_without_finished_splits_is_named(distrain, tmp_path):
    run = new_run(tmp_path).run
    code, _, err = distrain("inspect", str(run.root))
    assert code == 4
    assert "Run `distrain resume small` first" in err


def test_a_closed_pipe_ends_both_processes_quietly(run):
    shell = " ".join([*command("data", "sample", "small", "--number", "9"), "| head -n 1"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"],
        env=environment(run.root.parent),
        cwd=str(data_commands.__file__).removesuffix("launcher/commands/data_commands.py"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("--- train/main: document")
    assert len(done.stdout.splitlines()) == 1


def test_the_choices_of_the_command_line_are_those_of_the_runtime():
    assert [member.value for member in data_commands.TokenFormat] == list(ADAPTERS)
    assert [member.value for member in data_commands.SplitChoice] == list(SPLITS)
    assert (
        [member.value for member in data_commands.Dtype] == list(DTYPES) == [*get_args(TokenDtype)]
    )


def test_long_lists_are_cut_and_sampling_is_said():
    shards = [{"name": f"{n}", "tokens": 1, "documents": 1, "bytes": 2} for n in range(30)]
    part = {
        "path": "x",
        "format": "npy",
        "tokens": 30,
        "documents": 30,
        "bytes": 60,
        "dtype": "uint16",
        "vocab_size": None,
        "eos_id": None,
        "tokenizer": None,
        "shards": shards,
        "lengths": {"min": 1},
        "lengths_of": 7,
    }
    text = inspection_text([part])
    assert "... and 20 more (--json lists all)" in text
    assert "(of 7 documents sampled)" in text


def test_names_and_texts_are_shown_with_escapes():
    record = {
        "split": "train",
        "source": "main",
        "document": 0,
        "documents": 1,
        "shard": 0,
        "first_token": 0,
        "tokens": 5,
        "shown": 2,
        "name": "a\x07\udcff.txt",
        "pieces": [{"text": "tab\there\r\x9b1m"}],
        "ids": [[3, "\x00"]],
    }
    text = document_text(record)
    assert "a\\x07\\udcff.txt" in text
    assert "tab\there\\x0d\\x9b1m" in text
    assert "       3  \\x00" in text
    assert "... and 3 tokens more" in text
    found = {"where": "\x1b", "found": "x", "expected": "y", "remedy": "Z."}
    damaged = {"path": "p", "files": 1, "bytes": 0, "damaged": [found]}
    assert "\x1b" not in verified_text(damaged)
