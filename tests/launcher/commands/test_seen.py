import json

import pytest

from launcher.commands import cli
from launcher.commands.seen_text import document_lines, step_lines
from tests.distrain.tools.test_seen import begin
from tests.launcher.small_run import new_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return begin(new_run(tmp_path_factory.mktemp("seen")).run, "concat")


@pytest.fixture
def distrain(run, monkeypatch, capfd):
    """Run `distrain data seen`; returns exit code, stdout, stderr."""
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(run.root.parent))

    def invoke(*argv):
        code = cli.main(["data", "seen", *argv])
        return code, *capfd.readouterr()

    return invoke


def test_a_step_is_a_table_of_the_latest_run_and_json(distrain):
    code, out, err = distrain("--step", "2")
    assert (code, err) == (0, "")
    title, header, *lines = out.splitlines()
    assert title.startswith("step 2 of pretrain trained on samples 8 to 15: ")
    assert header.split() == ["SAMPLE", "TOKENS", "BYTES", "DOCUMENT"]
    code, out, _ = distrain("small", "--step", "2", "--json")
    shown = json.loads(out)
    found = shown["result"]
    assert (shown["run"], found["step"], len(found["parts"])) == ("small", 2, len(lines))
    first = found["parts"][0]
    assert lines[0].split() == [
        str(first["sample"]),
        f"{first['first_token']}-{first['stop_token']}",
        f"{first['first_byte']}-{first['stop_byte']}",
        first["name"],
        f"({first['source']}:#{first['document']}",
        "in",
        "shard",
        f"{first['shard']})",
    ]


def test_a_document_has_its_steps(distrain):
    code, out, err = distrain("small", "--document", "code:3.txt")
    assert (code, err) == (0, "")
    title, header, *lines = out.splitlines()
    assert title.startswith("made/3.txt  (code:#3 in shard 00000): ")
    assert header.split() == ["STEP", "TOKENS", "BYTES", "SAMPLE,", "EPOCH,", "DOCUMENT"]
    assert lines[0].endswith(", epoch 1, code:#3")


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "give either --step or --document"),
        (["--step", "1", "--document", "a"], 2, "give either --step or --document"),
        (["--step", "0"], 2, "--step"),
        (["--step", "10"], 7, "expected a step from 1 to 9"),
        (["nothere", "--step", "1"], 7, "none of that name"),
    ],
)
def test_bad_input_is_a_message(distrain, argv, code, message):
    found, out, err = distrain(*argv)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


HEAD = {
    "stage": "pretrain",
    "step": 5,
    "made": False,
    "steps_made": 1,
    "first_sample": 32,
    "num_samples": 8,
    "targets": 100,
    "documents": 1,
    "bytes_are_exact": False,
}
DOCUMENT = {"source": "web", "document": 3, "name": None, "shard": "00001"}


def test_a_step_to_come_and_estimated_bytes_are_said():
    lines = list(step_lines(HEAD, []))
    assert lines[0] == (
        "step 5 of pretrain would train on samples 32 to 39: 100 tokens of 1 document"
    )
    assert lines[1].startswith("1 step of pretrain made so far; a resume")
    assert lines[2].startswith("bytes are estimates")


def test_what_was_left_out_for_a_spike_is_said():
    head = HEAD | {"made": True, "left_out": True, "bytes_are_exact": True}
    assert next(step_lines(head, [])).startswith(
        "step 5 of pretrain leaves out, for a spike, samples 32 to 39: 100 tokens"
    )
    part = DOCUMENT | {
        "step": 5, "sample": 33, "epoch": 0, "first_token": 0, "stop_token": 9, "first_byte": 0,
        "stop_byte": 20, "left_out": True,
    }  # fmt: skip
    *_, line = document_lines(head | {"documents": []}, [part])
    assert line.endswith("33, epoch 1, web:#3, left out for a spike")


def test_a_document_that_was_not_read_and_has_no_name_is_said():
    named = DOCUMENT | {"name": "red \x1b[31m"}
    sizes = {"tokens": 7, "bytes": 1}
    head = HEAD | {"documents": [DOCUMENT | sizes, named | sizes], "bytes_are_exact": True}
    assert list(document_lines(head, [])) == [
        "web:#3 in shard 00001: 7 tokens, 1 byte",
        "red \\x1b[31m  (web:#3 in shard 00001): 7 tokens, 1 byte",
        "pretrain has not read it, in 1 step",
    ]


def test_examples_of_fine_tuning_are_a_table_too():
    head = {"stage": "sft", "step": 3, "made": True, "first_sample": 8, "num_samples": 4}
    head |= {"targets": 57, "examples": 2}
    place = {"first_position": 0, "stop_position": 40, "targets": 30}
    example = {"source": "chats", "example": 6, "path": "chats.jsonl:7"}
    title, header, line = step_lines(head, [example | {"sample": 9} | place])
    assert title == "step 3 of sft trained on samples 8 to 11: 57 tokens of 2 examples"
    assert header.split() == ["SAMPLE", "POSITIONS", "TRAINED", "ON", "EXAMPLE"]
    assert line.split() == ["9", "0-40", "30", "chats.jsonl:7", "(chats:#6)"]
    head = {"stage": "sft", "steps_made": 4, "examples": [example]}
    shown, header, line = document_lines(
        head, [example | {"sample": 9, "step": 3, "epoch": 0} | place]
    )
    assert shown == "chats.jsonl:7  (chats:#6)"
    assert line.split() == ["3", "0-40", "30", "9,", "epoch", "1,", "chats:#6"]
    assert list(document_lines(head, []))[1:] == ["sft has not read it, in 4 steps"]
