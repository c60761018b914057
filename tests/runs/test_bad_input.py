"""What a user meets who gives a run bad input: a message, a documented exit code, nothing lost."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from distrain.errors import ExitCode
from tests.runs.processes import start, wait_for_stage
from tests.tiny import (
    command,
    distrain,
    environment,
    events,
    exact_records,
    tensor_digests,
    write_recipe,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A recipe and its finished run, which tests copy."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder, processes=1, sft_steps=5)
    done = distrain(folder / "runs", "run", str(recipe))
    assert done.returncode == 0, done.stdout + done.stderr
    return recipe, folder / "runs" / "tiny"


@pytest.fixture
def copied(finished, tmp_path):
    """The recipe, and a copy of the run that a test may spoil."""
    recipe, run = finished
    return recipe, Path(shutil.copytree(run, tmp_path / "runs" / "tiny"))


def forget(run: Path, *stages: str) -> None:
    for stage in stages:
        shutil.rmtree(run / stage)


def assert_refused(result: "subprocess.CompletedProcess[str]", code: ExitCode, *parts: str) -> None:
    assert result.returncode == code, result.stdout + result.stderr
    for part in ("found", "expected", *parts):
        assert part in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert "starts again" not in result.stderr


@pytest.mark.parametrize(
    ("files", "overrides", "parts"),
    [
        (None, (), ("nothing", "Correct")),
        ({}, (), ("no files",)),
        ({"a.txt": b"", "b.txt": b" \n"}, (), ("empty corpus", "2 empty")),
        ({"a.bin": b"\0\1"}, (), ("a.bin (nul_bytes)", "UTF-8")),
        ({"a.bin": b"\xff"}, ("prepare.data.skip_budget=0",), ("skip_budget", "a.bin")),
        ({"a.txt": b"one text"}, (), ("split", "Add documents")),
    ],
)
def test_a_corpus_that_cannot_serve_is_refused_once(finished, tmp_path, files, overrides, parts):
    recipe, _ = finished
    corpus = tmp_path / "corpus"
    for name, content in (files or {}).items():
        corpus.mkdir(exist_ok=True)
        (corpus / name).write_bytes(content)
    if files == {}:
        corpus.mkdir()

    paths = f'prepare.data.source.paths=["{corpus}"]'
    result = distrain(tmp_path / "runs", "run", str(recipe), paths, *overrides)

    assert_refused(result, ExitCode.PREFLIGHT, *parts)
    left = {path.name for path in tmp_path.glob("runs/tiny/prepare/*")}
    # The plan and the ranges that were cleaned stay for the next attempt; nothing else is begun.
    assert left <= {"state.json", "error.json", "stage.lock", "logs", "plan.json", "work"}


def test_what_a_refused_stage_was_told_to_change_can_be_changed(finished, tmp_path):
    recipe, _ = finished
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = distrain(
        tmp_path / "runs", "run", str(recipe), f'prepare.data.source.paths=["{empty}"]'
    )
    assert refused.returncode == ExitCode.PREFLIGHT

    corpus = f'prepare.data.source.paths=["{recipe.parent / "corpus"}"]'
    gone_on = distrain(tmp_path / "runs", "resume", "tiny", corpus, "--only", "prepare")

    assert gone_on.returncode == 0, gone_on.stderr
    assert "resume tiny" in gone_on.stderr, "stages are left"


def test_a_run_folder_inside_its_own_corpus_is_refused(finished):
    recipe, run = finished
    paths = f'prepare.data.source.paths=["{recipe.parent}"]'
    result = distrain(run.parent, "run", str(recipe), "name=inside", paths)
    assert_refused(result, ExitCode.PREFLIGHT, "the folder of this run", "DISTRAIN_RUNS_DIR")


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("run", "RECIPE", "seed=8"), ExitCode.PREFLIGHT, ("seed 7 -> 8", "name=OTHER")),
        (
            (
                "run",
                "RECIPE",
                "launch.processes_per_node=2",
                "parallelism.data_parallel_shard=4",
            ),
            ExitCode.RECIPE,
            ("4 ranks", "Set parallelism.data_parallel_shard"),
        ),
        (
            ("run", "RECIPE", "launch.processes_per_node=3"),
            ExitCode.RECIPE,
            ("a multiple of 3", "Set training.global_batch_size to 6 or 9"),
        ),
        (("submit", "RECIPE", "launch.backend=slurm"), ExitCode.SCHEDULER, ("PATH", "login node")),
        (("status", "nothere"), ExitCode.NOT_FOUND, ("nothere", "one of: tiny")),
        (("run", "nothere.yaml"), ExitCode.NOT_FOUND, ("nothere.yaml", "launcher recipes")),
    ],
)
def test_a_command_that_cannot_be_done_says_why(
    finished, tmp_path, monkeypatch, arguments, code, parts
):
    recipe, run = finished
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm there
    before = (run / "resolved.yaml").read_bytes(), sorted(run.rglob("*"))
    words = [str(recipe) if word == "RECIPE" else word for word in arguments]
    assert_refused(distrain(run.parent, *words), code, *parts)
    assert ((run / "resolved.yaml").read_bytes(), sorted(run.rglob("*"))) == before


def test_an_export_that_is_not_there_is_asked_for_and_an_empty_prompt_is_answered(copied):
    _, run = copied
    assert distrain(run.parent, "generate", "tiny", "", "--max-new-tokens", "2").returncode == 0
    dashed = distrain(run.parent, "generate", "tiny", "--max-new-tokens", "2", "--", "-x")
    assert dashed.returncode == 0, dashed.stderr
    forget(run, "export")
    asked = distrain(run.parent, "generate", "tiny", "def ")
    assert_refused(asked, ExitCode.PREFLIGHT, "launcher export tiny")


def test_a_damaged_shard_and_a_batch_that_is_too_large_are_named(copied):
    _, run = copied
    forget(run, "pretrain", "sft", "evaluate", "export")
    large = distrain(run.parent, "resume", "tiny", "training.global_batch_size=20000")
    assert_refused(large, ExitCode.PREFLIGHT, "global batch of 20000", "lower")
    back = ("resume", "tiny", "training.global_batch_size=8")
    shard = run / "prepare" / "train" / "main" / "00000.bin"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    assert_refused(distrain(run.parent, *back), ExitCode.PREFLIGHT, "00000.bin", "digest differs")


def test_a_tokenizer_that_did_not_make_the_shards_is_refused(copied):
    recipe, run = copied
    forget(run, "pretrain", "sft", "evaluate", "export")
    tokenizer = run / "prepare" / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["model"]["merges"].reverse()
    tokenizer.write_text(json.dumps(content))
    refused = distrain(run.parent, "run", str(recipe), "--only", "pretrain")
    assert_refused(refused, ExitCode.PREFLIGHT, "made with the tokenizer", "tokenizer.json back")


def test_a_damaged_newest_checkpoint_costs_only_its_steps(copied, finished):
    recipe, run = copied
    forget(run, "sft", "evaluate", "export")
    newest = run / "pretrain" / "checkpoints" / "step_000020"
    part = next(newest.glob("__0_*"))
    part.write_bytes(part.read_bytes()[:-1])
    state = json.loads((run / "pretrain" / "state.json").read_text())
    (run / "pretrain" / "state.json").write_text(json.dumps(state | {"state": "running"}))

    result = distrain(run.parent, "run", str(recipe), "--only", "pretrain")

    assert result.returncode == 0, result.stderr
    assert [event["step"] for event in events(run, "quarantined")] == [20]
    assert [event["step"] for event in events(run, "resumed")] == [15]
    assert exact_records(run, "pretrain") == exact_records(finished[1], "pretrain")
    assert tensor_digests(run, "pretrain") == tensor_digests(finished[1], "pretrain")


def test_a_file_that_may_not_grow_ends_the_stage_and_leaves_nothing_half_written(
    finished, tmp_path
):
    recipe, _ = finished

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))

    result = subprocess.run(
        command("run", str(recipe)),
        env=environment(tmp_path),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )

    assert_refused(result, ExitCode.PREFLIGHT, "no space left", "Free space")
    assert not list((tmp_path / "tiny" / "prepare").rglob("*.bin"))


def strictly(path: Path) -> list[object]:
    """Read every line of a file as JSON that holds neither NaN nor an infinity."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{path}: {token}")

    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [json.loads(line, parse_constant=refuse) for line in lines]


def test_updates_that_are_never_finite_are_not_made_and_end_the_stage_for_good(copied):
    _, run = copied
    forget(run, "pretrain", "sft", "evaluate", "export")
    wild = ("pretrain.optimizer.learning_rate=1e30", "pretrain.lr_scheduler.warmup_steps=0")
    allowed = "pretrain.training.max_skipped_steps=7"
    result = distrain(run.parent, "resume", "tiny", *wild, allowed, "--only", "pretrain")
    assert_refused(
        result, ExitCode.TRAINING, "steps 2 to 8", "max_skipped_steps", "optimizer.learning_rate"
    )
    assert "step 2 not applied" in result.stderr
    assert [event["step"] for event in events(run, "nonfinite")] == list(range(2, 9))
    (error,) = strictly(run / "pretrain" / "error.json")
    assert isinstance(error, dict)
    assert error["exit_code"] == ExitCode.TRAINING
    for path in [*run.rglob("*.json"), *run.rglob("*.jsonl")]:
        strictly(path)


def test_answers_that_do_not_fit_are_refused_before_training(copied):
    _, run = copied
    forget(run, "sft", "evaluate", "export")
    refused = distrain(run.parent, "resume", "tiny", "sft.data.truncation=refuse")
    assert_refused(refused, ExitCode.PREFLIGHT, "answer does not fit", "0.1 %", "to cut")
    assert not (run / "sft" / "data.json").exists()


def test_one_signal_saves_and_two_kill_and_the_same_command_goes_on(copied):
    recipe, run = copied
    forget(run, "pretrain", "sft", "evaluate", "export")
    for signals, code in ((1, ExitCode.STOPPED), (2, ExitCode.INTERRUPTED)):
        launcher = start(run.parent, recipe, "--only", "pretrain")
        assert wait_for_stage(run, "pretrain", launcher)
        for _ in range(signals):
            os.kill(launcher.pid, signal.SIGINT)
            time.sleep(0.05)
        assert launcher.wait(timeout=60) == code
    last = distrain(run.parent, "run", str(recipe), "--only", "pretrain")
    assert last.returncode == 0, last.stderr
