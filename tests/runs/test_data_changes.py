"""Mixture and batch size of a run change while it goes on; its ledger accounts for every token."""

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from itertools import chain

import pytest

from distrain.config.reading.load import read_resolved
from distrain.errors import ExitCode
from distrain.runs.folder import RunFolder
from distrain.tools.document_reading import DocumentReading
from distrain.tools.seen_documents import of_document, of_step
from tests.runs.processes import assert_no_orphans, family, start, wait_for_stage
from tests.runs.test_on_the_fly import kill_after, write_on_the_fly_recipe
from tests.tiny import command, distrain, environment, events, write_recipe

STEPS = 150


def two_sources(folder):
    """The tiny recipe with one large source and one that is soon read twice."""
    path = write_recipe(folder, steps=STEPS)
    corpus = folder / "corpus"
    one = f'source: {{kind: files, paths: ["{corpus}"]}}'
    files = {"web": "[e-h]*", "code": "json_*"}
    several = [
        f'{name}: {{kind: files, paths: ["{corpus}/{glob}"]}}' for name, glob in files.items()
    ]
    text = path.read_text()
    assert one in text
    path.write_text(text.replace(one, f"sources: {{{', '.join(several)}}}"))
    return path


def newest(run):
    names = sorted(path.name for path in (run / "pretrain" / "checkpoints").glob("step_*"))
    return int(names[-1].removeprefix("step_")) if names else 0


def wait_for_checkpoint(run, step, launcher):
    deadline = time.monotonic() + 120
    while newest(run) < step:
        assert launcher.poll() is None, (run.parent.parent / "launcher.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def resume(run, *overrides):
    """Go on, in a process of its own."""
    with (run.parent.parent / "launcher.log").open("ab") as log:
        return subprocess.Popen(
            command("resume", run.name, *overrides, "--only", "pretrain"),
            env=environment(run.parent), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


@pytest.mark.data
def test_a_run_that_is_stopped_changed_killed_and_changed_reads_everything_once(tmp_path):
    recipe = two_sources(tmp_path)
    run = tmp_path / "runs" / "tiny"
    first = ("pretrain.data.mixture={web: 3, code: 1}", "pretrain.data.packing=best_fit")
    launcher = start(run.parent, recipe, *first)
    assert wait_for_stage(run, "pretrain", launcher)
    wait_for_checkpoint(run, 5, launcher)
    assert distrain(run.parent, "stop", "tiny").returncode == 0
    assert launcher.wait() == ExitCode.STOPPED
    stopped_at = newest(run)

    launcher = resume(
        run, "pretrain.data.mixture={web: 1, code: 4}", "pretrain.training.global_batch_size=4"
    )
    wait_for_checkpoint(run, stopped_at + 7, launcher)
    processes = family(launcher)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    assert_no_orphans(processes)
    killed_after = newest(run)

    ended = distrain(
        run.parent, "resume", "tiny", "pretrain.data.mixture.web=0.5", "--only", "pretrain",
        "pretrain.training.global_batch_size=12", "pretrain.data.max_epochs=9",
        "launch.processes_per_node=1",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr

    changes = [(e["step"], e["batch_size"], e["weights"]) for e in events(run, "schedule_changed")]
    assert changes == [
        (stopped_at, 4, {"web": 1, "code": 4}),
        (killed_after, 12, {"web": 0.5, "code": 4}),
    ]
    steps, ended = check_ledger(run, {0: 8, stopped_at: 4, killed_after: 12})
    assert steps == STEPS
    assert ended["code"] >= 1


@pytest.mark.data
def test_text_tokenized_on_the_fly_is_accounted_for_after_a_kill_and_a_change(tmp_path):
    recipe = write_on_the_fly_recipe(tmp_path)
    run = tmp_path / "runs" / "tiny"
    kill_after(run, recipe, 7)
    changed = newest(run)
    ended = distrain(
        run.parent, "resume", "tiny", "pretrain.data.mixture.mail=8",
        "pretrain.training.global_batch_size=24", "pretrain.training.max_steps=60",
        "launch.processes_per_node=1",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    steps, epochs = check_ledger(run, {0: 8, changed: 24})
    assert steps == 60
    assert epochs["rest"] == 0
    assert epochs["mail"] >= 1
    ahead = distrain(run.parent, "data", "seen", "tiny", "--step", "61")
    assert ahead.returncode == ExitCode.NOT_FOUND
    shown = distrain(run.parent, "data", "seen", "tiny", "--step", "60")
    assert re.search(r"\(mail:#\d+ in shard \d{5}/00000\)", shown.stdout), shown.stdout


def check_ledger(run, batch_sizes):
    """Compare what the steps read with the metrics, with the documents, and with the whole."""
    folder = RunFolder(run)
    reading = DocumentReading(folder, read_resolved(folder.resolved), "pretrain")
    steps = reading.steps_made
    targets: Counter[tuple[str, int, int, int]] = Counter()
    listed, next_sample = [], 0
    for step in range(1, steps + 1):
        head, *parts = of_step(reading, step)  # compares the hash with that of the metrics
        size = batch_sizes[max(first for first in batch_sizes if first < step)]
        assert (head["first_sample"], head["num_samples"]) == (next_sample, size)
        next_sample += size
        for part in parts:
            key = part["source"], part["epoch"], part["document"]
            targets.update((*key, n) for n in range(part["first_token"] + 1, part["stop_token"]))
            listed.append((*key, step, part["sample"], part["first_byte"], part["stop_byte"]))
    assert set(targets.values()) == {1}
    ended = check_epochs(reading, targets)
    found = []
    for name, source in reading.ledger.sources.items():
        numbers = (f"{name}:#{number}" for number in range(source.tokens.num_documents))
        for part in chain.from_iterable(list(of_document(reading, name))[1:] for name in numbers):
            key = part["source"], part["epoch"], part["document"]
            place = part["step"], part["sample"], part["first_byte"], part["stop_byte"]
            found.append((*key, *place))
    assert sorted(found) == sorted(listed)
    reading.close()
    return steps, ended


def check_epochs(reading, targets):
    """See that epochs that have ended hold every target; returns how many ended, by source."""
    consumed = reading.ledger.plan.consumed_by_steps(reading.steps_made)
    sources = reading.ledger.sources
    ended = {name: consumed[name] // source.order.num_samples for name, source in sources.items()}
    for (name, epoch), count in Counter(key[:2] for key in targets).items():
        tokens = sources[name].tokens
        if epoch < ended[name]:
            assert count == tokens.num_tokens - tokens.num_documents
    return ended


@pytest.mark.data
def test_what_cannot_change_is_refused_and_what_is_seen_is_shown(tmp_path):
    recipe = two_sources(tmp_path)
    run = tmp_path / "runs" / "tiny"
    launcher = start(run.parent, recipe, "pretrain.training.max_steps=3000")
    assert wait_for_stage(run, "pretrain", launcher)
    wait_for_checkpoint(run, 5, launcher)
    # While it runs:
    shown = distrain(run.parent, "data", "seen", "--step", "3", "--json")
    assert shown.returncode == 0, shown.stderr
    part = json.loads(shown.stdout)["result"]["parts"][0]
    name = f"{part['source']}:{part['name']}"
    shown = distrain(run.parent, "data", "seen", "tiny", "--document", name, "--json")
    places = [
        (p["step"], p["sample"], p["first_byte"])
        for p in json.loads(shown.stdout)["result"]["parts"]
    ]
    assert (3, part["sample"], part["first_byte"]) in places
    assert distrain(run.parent, "stop", "tiny").returncode == 0
    launcher.wait()
    before = (run / "resolved.yaml").read_bytes()
    for change in (
        "data.packing=best_fit",
        "data.order.kind=blocks",
        "training.sequence_length=32",
    ):
        refused = distrain(run.parent, "resume", "tiny", f"pretrain.{change}")
        assert refused.returncode == ExitCode.PREFLIGHT
        assert f"a change of pretrain.{change.partition('=')[0]}" in refused.stderr
    refused = distrain(run.parent, "resume", "tiny", "pretrain.data.mixture.books=1")
    assert refused.returncode == ExitCode.RECIPE, refused.stderr
    assert (run / "resolved.yaml").read_bytes() == before
