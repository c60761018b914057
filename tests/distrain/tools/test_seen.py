"""``distrain data seen`` over a stage that has begun, as far as the runtime answers it."""

import json
import shutil

import numpy as np
import pytest

from distrain.config.reading.load import read_resolved
from distrain.config.recipe import PretrainStage
from distrain.data.opened.cutting import cut_samples
from distrain.data.opened.form import SampleSettings
from distrain.data.samples.feed import Feed
from distrain.data.samples.schedule import Schedule
from distrain.data.samples.source import SourceTokens
from distrain.data.shards.reader import open_split
from distrain.errors import ExitCode
from distrain.runs.records import append_record, write_json
from distrain.stages.context import typed
from distrain.tools import data_commands
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.launcher.small_run import new_run

STEPS_MADE, MAX_STEPS = 6, 9
SOURCES = {"code": 20, "web": 12}


def begin(run, packing):
    """Write what a stage of that packing leaves that made six steps, the last two another way."""
    stage = typed(read_resolved(run.resolved), "pretrain", PretrainStage)
    data = stage.data.model_copy(update={"packing": packing})
    streams = {}
    for name, count in SOURCES.items():
        prepare = run.stage("prepare").path
        write_split(prepare, "train", make_texts(count, seed=count), source=name)
        split = SourceTokens.of_split(open_split(prepare, "train", name, stage_kind="pretrain"))
        length = stage.training.sequence_length
        settings = SampleSettings(run.stage("pretrain").path, length, 0)
        streams[name] = cut_samples(data, split, name, settings)
    schedule = Schedule.planned(8, {0: {"code": 1, "web": 1}})
    feed = Feed(streams, schedule.continued(4, Schedule.planned(12, {0: {"code": 1, "web": 4}})), 0)
    pretrain = run.stage("pretrain")
    head = {"step": 4, "max_steps": MAX_STEPS, "seed": 0, "sequence_length": 16}
    write_json(pretrain.data, head | feed.state())
    write_json(pretrain.state, {"state": "stopped", "step": 4})
    for step in range(STEPS_MADE):
        first, size = feed.schedule.samples_of(step)
        digest = feed.rows(np.arange(first, first + size)).digest(first)
        places = {"data/first_sample": first, "data/num_samples": size, "data/batch_hash": digest}
        append_record(pretrain.metrics, {"train/global_step": step + 1} | places)
    append_record(pretrain.metrics, {"train/global_step": STEPS_MADE, "eval/loss": 3.0})
    return run


@pytest.fixture(scope="module", params=["concat", "best_fit"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    return begin(new_run(folder, f"pretrain.data.packing={request.param}").run, request.param)


@pytest.fixture
def seen(capsys):
    """Ask the runtime; returns its exit code, its records, and what it says on stderr."""

    def ask(run, *arguments):
        code = data_commands.run_command(["seen", str(run.root), *arguments])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return ask


@pytest.fixture
def copied(made, tmp_path):
    """A run that a test may spoil."""
    shutil.copytree(made.root, tmp_path / made.root.name)
    return type(made)(tmp_path / made.root.name)


PLACE = ("sample", "epoch", "first_token", "stop_token", "first_byte", "stop_byte", "targets")


def test_steps_and_documents_tell_the_same(made, seen):
    by_step, by_document = set(), set()
    documents = set()
    for step in range(1, STEPS_MADE + 1):
        code, (head, *parts), err = seen(made, f"--step={step}")
        assert (code, err) == (0, "")
        assert (head["step"], head["made"], head["steps_made"]) == (step, True, STEPS_MADE)
        assert head["bytes_are_exact"]
        assert head["num_samples"] == len({part["sample"] for part in parts})
        assert head["targets"] == sum(part["targets"] for part in parts)
        for part in parts:
            document = f"{part['source']}:{part['name']}"
            documents.add(document)
            by_step.add((step, document, *(part[key] for key in PLACE)))
    assert len(documents) > 15
    for source, count in SOURCES.items():
        for number in range(count):
            code, (head, *parts), _ = seen(made, f"--document={source}:#{number}")
            (described,) = head["documents"]
            assert described["name"] == f"made/{number}.txt"
            assert described["bytes"] == len(make_texts(count, seed=count)[number].encode())
            for part in parts:
                document = f"{source}:{described['name']}"
                by_document.add((part["step"], document, *(part[key] for key in PLACE)))
    assert by_step == by_document


def test_a_name_in_two_sources_is_both(made, seen):
    _, (head, *parts), _ = seen(made, "--document", "made/3.txt")
    assert [(d["source"], d["document"]) for d in head["documents"]] == [("code", 3), ("web", 3)]
    assert {part["source"] for part in parts} == {"code", "web"}


def test_a_step_to_come_is_what_the_schedule_says_now(made, seen):
    code, (head, *parts), _ = seen(made, f"--step={MAX_STEPS}")
    assert (code, head["made"], head["num_samples"]) == (0, False, 12)
    assert parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step=0"], "a stage of 9 steps, 6 of them made; expected a step from 1 to 9"),
        (["--step=10"], "a stage of 9 steps, 6 of them made; expected a step from 1 to 9"),
        (["--document=made/3.text"], "expected a name such as code:made/3.txt"),
        (["--document=web:#12"], "expected a number from 0 to 11"),
        (["--stage=prepare", "--step=1"], "a stage of kind prepare; expected one of: pretrain"),
        (["--stage=petrain", "--step=1"], "found none; expected one of: pretrain"),
    ],
)
def test_what_there_is_not_is_refused(made, seen, arguments, message):
    code, records, err = seen(made, *arguments)
    assert (code, records) == (ExitCode.NOT_FOUND, [])
    assert message in err


def test_a_stage_that_is_done_makes_no_further_step(copied, seen):
    write_json(copied.stage("pretrain").state, {"state": "done", "step": STEPS_MADE})
    code, _, err = seen(copied, f"--step={STEPS_MADE + 1}")
    assert code == ExitCode.NOT_FOUND
    assert "expected a step from 1 to 6" in err


def test_a_stage_that_has_not_begun_is_named(copied, seen):
    copied.stage("pretrain").data.unlink()
    code, _, err = seen(copied, "--step=1")
    assert code == ExitCode.NOT_FOUND
    assert "stage pretrain has read no sample yet" in err
    assert "distrain resume small" in err


def test_shards_that_were_made_again_otherwise_are_refused(copied, seen):
    folder = copied.stage("prepare").split("train") / "web"
    shutil.rmtree(folder)
    write_split(folder.parent.parent, "train", make_texts(13, seed=1), source="web")
    code, _, err = seen(copied, "--step=1")
    assert code == ExitCode.PREFLIGHT
    assert "web" in err


def test_tokens_that_are_not_those_of_the_step_are_refused(copied, seen):
    file = copied.stage("prepare").split("train") / "code" / "00000.bin"
    content = file.read_bytes()
    file.write_bytes(content[::-1])
    codes, messages = set(), ""
    for step in range(1, STEPS_MADE + 1):
        code, _, err = seen(copied, f"--step={step}")
        codes.add(code)
        messages += err
    assert ExitCode.PREFLIGHT in codes
    assert "as the step has recorded. Look for damage: `distrain data verify small`" in messages


def test_a_torn_line_of_the_metrics_is_passed_over(copied, seen):
    with copied.stage("pretrain").metrics.open("a") as lines:
        lines.write('{"train/global_step": 7, "data/first_sa')
    _, (head, *_), _ = seen(copied, "--step=1")
    assert head["steps_made"] == STEPS_MADE


def test_several_stages_that_pretrain_are_told_apart(tmp_path, seen):
    other = "stages:\n  again: {kind: pretrain, needs: prepare, training: {max_steps: 1}}\n"
    plan = new_run(tmp_path)
    text = plan.run.resolved.read_text()
    plan.run.resolved.write_text(text.replace("stages:\n", other, 1))
    code, _, err = seen(plan.run, "--step=1")
    assert code == ExitCode.NOT_FOUND
    assert "2 of them" in err
    assert "--stage again" in err
