"""Text that is tokenized while the run reads it, through the command line, killed and moved."""

import json
import re
import shutil
import time

import pytest

from tests.runs.processes import assert_no_orphans, family, kill, start
from tests.tiny import distrain, events, exact_records, tensor_digests, write_recipe

pytestmark = pytest.mark.data

SOURCES = """\
      on_the_fly: true
      range_bytes: 60k
      curation: {{filters: {{fineweb: {{}}}}}}
      sources:
        mail: {{kind: files, paths: ["{corpus}/email*", "{corpus}/json*"]}}
        rest: {{kind: files, paths: ["{corpus}/[l-z]*", "{corpus}/h*"]}}
"""
READING = """\
    data:
      mixture: {mail: 1, rest: 2}
      packing: best_fit
      order: {block_samples: 8, window_blocks: 2}
"""
STEPS = 20


def write_on_the_fly_recipe(folder, on_the_fly="true"):
    """The tiny recipe over two sources of text, to the end of pretraining."""
    path = write_recipe(folder, steps=STEPS)
    text = path.read_text()
    sources = SOURCES.format(corpus=folder / "corpus").replace("true", on_the_fly)
    text = re.sub(r"      source: .*\n", lambda _: sources, text)
    text = text.replace("    pairs: {kind: docstrings}\n", "")
    text = text.replace(
        f"    training: {{max_steps: {STEPS}}}\n",
        f"    training: {{max_steps: {STEPS}}}\n{READING}",
    )
    before, _, after = text.partition("  sft:\n")
    path.write_text(before + after[after.index("launch:") :])
    return path


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twin")
    recipe = write_on_the_fly_recipe(folder)
    finished = distrain(folder / "runs", "run", str(recipe))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return recipe, folder / "runs" / "tiny"


def kill_after(run, recipe, step):
    """Start the run and kill all of it once that many steps have a record."""
    launcher = start(run.parent, recipe)
    metrics = run / "pretrain" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count('"train/loss"') < step:
        assert launcher.poll() is None, "it ended too early"
        time.sleep(0.01)
    processes = family(launcher)
    kill(processes[:1])
    launcher.wait(timeout=10)
    assert_no_orphans(processes)


def test_killed_while_it_tokenizes_it_ends_as_its_twin(twin, tmp_path):
    recipe, twin_run = twin
    run = tmp_path / "runs" / "tiny"
    kill_after(run, recipe, 3)
    kill_after(run, recipe, 12)
    finished = distrain(run.parent, "run", str(recipe))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert events(run, "resumed")
    assert exact_records(run, "pretrain") == exact_records(twin_run, "pretrain")
    assert tensor_digests(run, "pretrain") == tensor_digests(twin_run, "pretrain")


def test_on_another_number_of_ranks_every_step_reads_the_same_samples(twin, tmp_path):
    recipe, twin_run = twin
    run = tmp_path / "runs" / "tiny"
    kill_after(run, recipe, 7)
    finished = distrain(run.parent, "run", str(recipe), "launch.processes_per_node=1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert read_samples(run) == read_samples(twin_run)


def test_killed_after_the_last_checkpoint_it_ends_without_reading_anything(twin, tmp_path):
    recipe, twin_run = twin
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(twin_run, run)
    (run / "pretrain" / "result.json").unlink()
    state = json.loads((run / "pretrain" / "state.json").read_text())
    (run / "pretrain" / "state.json").write_text(json.dumps(state | {"state": "running"}))
    finished = distrain(run.parent, "run", str(recipe))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    results = [
        json.loads((root / "pretrain" / "result.json").read_text()) for root in (run, twin_run)
    ]
    figures = ("unigram_entropy", "steps", "eval_loss")
    assert [results[0][name] for name in figures] == [results[1][name] for name in figures]


def test_a_file_that_changed_since_it_was_planned_ends_the_run_with_its_name(twin, tmp_path):
    recipe, _ = twin
    shutil.copytree(recipe.parent / "corpus", tmp_path / "corpus")
    recipe = write_on_the_fly_recipe(tmp_path)
    run = tmp_path / "runs" / "tiny"
    prepared = distrain(run.parent, "run", str(recipe), "--only", "prepare")
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    for file in (tmp_path / "corpus").glob("email*"):
        file.write_text("# changed\n" + file.read_text())
    failed = distrain(run.parent, "run", str(recipe))
    assert failed.returncode == 4, failed.stdout + failed.stderr
    assert "email" in failed.stdout + failed.stderr


def read_samples(run):
    fields = ("train/global_step", "data/first_sample", "data/batch_hash")
    return [[record[field] for field in fields] for record in exact_records(run, "pretrain")]
