"""A whole run with a task of its own: what it leaves behind is shown by its own names."""

import json

import pytest

from distrain.__main__ import main
from distrain.config.reading.load import load_recipe
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from launcher.commands import cli
from launcher.run_files import make_folder, open_run
from tests.distrain.tasks import pairwise
from tests.ranks import exit_codes
from tests.tiny import PREPARE, write_corpus

pytestmark = pytest.mark.seams

RECIPE = (
    """\
name: other
defaults:
  training: {{sequence_length: 64, global_batch_size: 8, micro_batch_size: 2}}
stages:
"""
    + PREPARE
    + """\
    tokenizer: {{vocab_size: 300}}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}}
    training: {{max_steps: 4, task: pairwise, early_stopping: {{patience: 9}}}}
    parallelism: {{strategy: fsdp}}
    eval: {{eval_steps: 2, max_batches: 1}}
  evaluate: {{kind: evaluate, needs: pretrain}}
launch: {{processes_per_node: 2}}
"""
)


def run_stage(root, stage):
    """As a process of the runtime, which knows of the task."""
    pairwise.register()
    assert main(["stage", str(root), stage]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    recipe = folder / "other.yaml"
    recipe.write_text(RECIPE.format(corpus=write_corpus(folder / "corpus")))
    with pairwise.registered():
        run = RunFolder(folder / "runs" / "other")
        make_folder(run)
        open_run(run, load_recipe(recipe))
        for stage, ranks in (("prepare", 1), ("pretrain", 2), ("evaluate", 1)):
            codes = exit_codes(folder / stage, ranks, run_stage, run.root, stage)
            assert codes == [0] * ranks, stage
        yield run


def test_status_and_report_show_the_metrics_of_the_task(run, capsys, monkeypatch):
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(run.root.parent))
    assert cli.main(["status", "other"]) == 0
    shown = capsys.readouterr().out
    last = [r for r in read_records(run.stage("pretrain").metrics) if "train/preference" in r][-1]
    text = f"preference {last['train/preference']:.3f}, agreement {last['train/agreement']:.3f}"
    assert text in " ".join(shown.split())

    assert cli.main(["status", "other", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["result"]["stages"]
    metrics = {name: last[f"train/{name}"] for name in ("preference", "agreement")}
    assert (stages[1]["metrics"], stages[1]["loss"]) == (metrics, metrics["preference"])

    assert cli.main(["report", "other"]) == 0
    page = run.report.read_text()
    for words in ("train preference", "validation preference", "validation agreement",
                  "nats per weighted pair", ">Agreement<"):  # fmt: skip
        assert words in page
    assert "erplexity" not in page
    assert "unigram" not in page


def test_results_and_the_best_validation_follow_the_trained_metric(run):
    scores = [r for r in read_records(run.stage("pretrain").metrics) if "eval/preference" in r]
    result = json.loads(run.stage("pretrain").result.read_text())
    assert result["eval_loss"] == scores[-1]["eval/preference"]
    assert result["best_eval_loss"] == min(score["eval/preference"] for score in scores)
    documents = json.loads(run.stage("evaluate").result.read_text())["documents"]
    assert documents.keys() == {"preference", "agreement", "targets"}
