"""``distrain data seen`` over a stage of fine-tuning, as far as the runtime answers it."""

import json

import numpy as np
import pytest

from distrain.config.reading.load import dump_resolved
from distrain.config.recipe import Recipe
from distrain.data.samples.feed import Feed
from distrain.data.samples.schedule import Schedule
from distrain.errors import ExitCode
from distrain.runs.folder import RunFolder
from distrain.runs.records import append_record, write_json
from distrain.tools import data_commands
from distrain.tools.examples import read_stage
from tests.distrain.data.made_corpus import make_tokenizer

STEPS = 4


def write_run(root, packing, kind="sft"):
    """Write what a stage of two sources leaves that made four steps, the last two after a change.

    Line 3 of the sums is too long.
    """
    sources = {}
    for name, count in {"chats": 30, "sums": 20}.items():
        path = root.parent / f"{name}.jsonl"
        rows = [
            {"prompt": f"{name} {n}?", "answer": "so " * (n % 5) + "it is"} for n in range(count)
        ]
        if name == "sums":
            rows[2]["answer"] = "word " * 400
        if kind == "preference":
            rows = [{"prompt": r["prompt"], "chosen": r["answer"], "rejected": "no"} for r in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources[name] = {"kind": "files", "paths": [str(path)]}
    text = {"kind": "files", "paths": [str(root.parent / "*.txt")]}
    stages = {
        "prepare": {"kind": "prepare", "data": {"source": text}},
        "pretrain": {"kind": "pretrain", "needs": "prepare", "training": {"max_steps": 1}},
        "sft": {
            "kind": kind,
            "needs": "pretrain",
            "training": {"max_steps": 9, "sequence_length": 64},
            "data": {"sources": sources, "packing": packing, "truncation": "drop"},
        },
    }
    recipe = Recipe.model_validate({"name": "small", "stages": stages})
    run = RunFolder(root)
    make_tokenizer(run.stage("prepare").path)
    run.resolved.write_text(dump_resolved(recipe))
    stage = run.stage("sft")
    stage.path.mkdir()
    streams = read_stage(run, "sft")[0]["train"].streams()
    schedule = Schedule.planned(4, {0: {"chats": 1, "sums": 1}})
    schedule = schedule.continued(2, Schedule.planned(6, {0: {"chats": 1, "sums": 3}}))
    feed = Feed(streams, schedule, recipe.seed)
    head = {"step": 2, "max_steps": 9, "seed": recipe.seed, "sequence_length": 64}
    write_json(stage.data, head | {"positions": "needed"} | feed.state())
    write_json(stage.state, {"state": "stopped", "step": 4})
    for step in range(STEPS):
        first, size = schedule.samples_of(step)
        digest = feed.rows(np.arange(first, first + size)).digest(first)
        places = {"data/first_sample": first, "data/num_samples": size, "data/batch_hash": digest}
        append_record(stage.metrics, {"train/global_step": step + 1} | places)
    return run


@pytest.fixture(
    scope="module", params=[("none", "sft"), ("best_fit", "sft"), ("none", "preference")]
)
def made(request, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("seen") / "small", *request.param)


@pytest.fixture
def seen(capsys):
    """Ask the runtime; returns its exit code, its records, and what it says on stderr."""

    def ask(run, *arguments):
        code = data_commands.run_command(["seen", str(run.root), "--stage=sft", *arguments])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return ask


def by_sample(part):
    return part["sample"], part["first_position"]


def test_steps_and_examples_tell_the_same(made, seen):
    by_step: dict[tuple[str, str], list[dict[str, object]]] = {}
    for step in range(1, STEPS + 1):
        code, (head, *parts), err = seen(made, f"--step={step}")
        assert (code, err, head["made"]) == (0, "", True)
        assert head["num_samples"] == (4 if step <= 2 else 6)
        assert head["targets"] == sum(part["targets"] for part in parts)
        for part in parts:
            place = {"step": step, "left_out": head["left_out"]}
            place |= {key: part[key] for key in part if key != "path"}
            by_step.setdefault((part["source"], part["path"]), []).append(place)
    for (source, path), places in list(by_step.items())[:6]:
        code, (head, *parts), _ = seen(made, f"--document={source}:{path}")
        assert (code, {each["path"] for each in head["examples"]}) == (0, {path})
        assert sorted(parts, key=by_sample) == sorted(places, key=by_sample)


def test_a_step_to_come_is_what_the_schedule_says_now(made, seen):
    code, (head, *parts), _ = seen(made, "--step=9")
    assert (code, head["made"], head["num_samples"]) == (0, False, 6)
    assert parts


def test_what_no_step_trains_on_is_told(made, seen):
    for arguments, message in (
        (["--document=sums.jsonl:3"], "left out of the train split: too long"),
        (["--document=sums.jsonl:99"], "none of that name in the train split of chats, sums"),
        (["--document=chats:#99"], "a train split of "),
        (["--step=10"], "a stage of 9 steps, 4 of them made; expected a step from 1 to 9"),
    ):
        code, records, err = seen(made, *arguments)
        assert (code, records) == (ExitCode.NOT_FOUND, [])
        assert message in err
    held_out = read_stage(made, "sft")[0]["validation"].fitted["chats"][0].path
    _, _, err = seen(made, f"--document={held_out}")
    assert "it is of the validation split, which no step trains on" in err


def test_a_file_that_changed_since_is_refused(made, seen):
    path = made.root.parent / "chats.jsonl"
    text = path.read_text()
    path.write_text(text.replace("it is", "it was"))
    code, records, err = seen(made, "--step=1")
    path.write_text(text)
    assert (code, records) == (ExitCode.PREFLIGHT, [])
    assert "data of source 'chats'" in err
