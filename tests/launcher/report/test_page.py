import json
import re
import subprocess
import sys

import pytest

from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder
from distrain.runs.records import write_json
from launcher.report.page import MAX_BYTES, write_report
from tests.distrain.tasks import pairwise
from tests.launcher.report.runs import (
    RunWriter,
    curated_run,
    data_record,
    failed_run,
    finished_run,
    pretrain_result,
)

PATH = re.compile(r'data-label="([^"]*)" data-points="(\d+)"')


def page_of(run):
    path = write_report(run)
    assert path == run.report
    assert path.stat().st_size < MAX_BYTES
    return path.read_text()


def text_of(page):
    """What a reader sees, roughly."""
    body = page.split("</header>")[0] + page.split("</header>")[1].split("<script>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return page_of(finished_run(tmp_path_factory.mktemp("runs") / "quickstart"))


def test_summary_says_how_the_run_ended_and_what_came_out(finished):
    (sentence,) = re.findall(r'class="summary">([^<]*)<', finished)
    assert sentence.startswith("All 5 stages done in ")
    assert ", 1 restart." in sentence
    assert "1.60 nats under the lower unigram figure of 6.312" in sentence
    assert "4.402 before and 3.214 after sft (3.871 with shuffled prompts)" in sentence


def test_every_record_is_a_point_of_its_chart(finished):
    counts = [(label, int(number)) for label, number in PATH.findall(finished)]
    single = ["learning rate", "gradient norm", "throughput", "memory"]
    assert counts == [
        ("train", 430),
        ("validation", 11),  # every 40 steps and the last one
        *((label, 430) for label in single),
        ("train", 120),
        ("validation", 3),
        *((label, 120) for label in single),
    ]


def test_both_unigram_figures_stand_beside_the_validation_loss(finished):
    assert "unigram entropy 6.312" in finished
    assert "train unigram 6.641" in finished
    assert "1.602" in text_of(finished)
    assert "1.931" in text_of(finished)


def test_sft_table_shows_base_tuned_and_shuffled(finished):
    text = text_of(finished)
    assert "base model 4.402 4.655 0.253" in text
    assert "tuned model 3.214 3.871 0.657" in text
    assert "change \N{MINUS SIGN}1.188 \N{MINUS SIGN}0.784" in text


def test_samples_stand_by_prompt_and_step_and_do_nothing(finished):
    (part,) = re.findall(r'<details class="card examples samples".*?</details>', finished, re.S)
    assert "&lt;b&gt;name&lt;/b&gt;" in part
    assert "120: &lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m" in part
    steps = [int(step) for step in re.findall(r"<tr><td>(\d+)</td>", part)]
    assert steps == [0, 15, 35, 50, 70, 85, 105, 120] * 3
    assert "8 of 25 times. samples.jsonl" in part
    assert part.count("…</pre>") == 8
    assert "<td>120</td><td>cut</td>" in part


def test_prepare_and_evaluate_tables(finished):
    text = text_of(finished)
    assert "train 646 3,154,022 10.5 MiB 5,120" in text
    assert "duplicate 4" in text
    assert "documents 4.688 109 1.945 101,202" in text
    assert "base model 4.430 4.670 0.240" in text
    assert "171 pairs." in text
    assert "size 9.9 MiB" in text


def test_restart_and_quarantine_are_on_the_page(finished):
    text = text_of(finished)
    assert "digest differs" in text
    assert "no word of its end (signal 9)" in text
    assert 'title="pretrain, attempt 1: lost' in finished
    assert finished.count('class="mark"') == 5  # attempt 2, in each chart of pretrain


def test_recipe_and_environment_are_on_the_page(finished):
    text = text_of(finished)
    assert "name: quickstart" in text
    assert "packages.torch 2.13.0" in text


def test_page_names_no_address(finished):
    assert "http" not in finished.replace("http-equiv", "")
    assert "src=" not in finished
    assert "@import" not in finished
    assert "url(" not in finished


def test_run_that_has_not_begun(tmp_path):
    run = RunFolder(tmp_path / "new")
    run.root.mkdir()
    assert "Not started yet." in page_of(run)


def test_recipe_alone_shows_its_stages_as_not_started(tmp_path):
    writer = RunWriter(tmp_path / "fresh")
    page = page_of(writer.run)
    assert "Not started yet." in page
    assert page.count("not started") == 5


def test_run_in_the_middle(tmp_path):
    writer = RunWriter(tmp_path / "running")
    writer.event("started", "pretrain", attempt=1)
    writer.state("pretrain", "running", 1)
    writer.steps("pretrain", 1, 1, 210, total=430)
    with writer.run.stage("pretrain").metrics.open("a") as stream:
        stream.write('{"train/global_step": 211, "train/lo')  # being written
    page = page_of(writer.run)
    assert "Running stage pretrain at step 210 of 430; 0 of 5 stages done." in page
    assert ("train", "210") in PATH.findall(page)
    assert "Could not be read" not in page


def test_a_length_in_tokens_is_shown_in_the_steps_that_the_stage_counted(tmp_path):
    writer = RunWriter(tmp_path / "tokens")
    text = writer.run.resolved.read_text().replace("max_steps: 430", "max_tokens: 880000")
    writer.run.resolved.write_text(text)
    writer.event("started", "pretrain", attempt=1)
    write_json(writer.run.stage("pretrain").data, data_record(max_steps=429))
    writer.state("pretrain", "running", 1)
    writer.steps("pretrain", 1, 1, 210, total=429)
    assert "Running stage pretrain at step 210 of 429; 0 of 5 stages done." in page_of(writer.run)


def test_failed_run_says_when_why_and_what_to_do(tmp_path):
    page = page_of(failed_run(tmp_path / "failed"))
    text = text_of(page)
    assert "Failed in stage pretrain after 30 steps, 1 restart." in page
    assert page.count('class="failure"') == 1
    (head, _) = page.split("</header>")
    assert "pretrain failed" in text_of(head + "</header>")
    assert "found &lt;nan&gt;; expected a finite loss." in head
    assert "What to do Lower the learning rate. " in text
    assert 'title="pretrain, attempt 3: failed' in page
    assert 'class="state failed">failed, 3 attempts' in page


def test_a_failure_of_an_older_version_is_shown_without_its_time(tmp_path):
    writer = RunWriter(tmp_path / "older")
    writer.event("started", "pretrain", attempt=1)
    writer.state("pretrain", "running", 1, 20)
    error = {"exit_code": 6, "message": "corpus: found nothing"}
    write_json(writer.run.stage("pretrain").error, error)
    page = page_of(writer.run)
    assert "Failed in stage pretrain after 20 steps." in page
    assert "<p><b>pretrain failed</b></p>" in page
    assert "corpus: found nothing" in page
    assert "What to do" not in page


@pytest.mark.parametrize("record", ["data", "result"])
def test_pairs_that_do_not_fit_are_told_from_the_start_on(tmp_path, record):
    writer = RunWriter(tmp_path / "lengths")
    writer.steps("sft", 1, 1, 20)
    lengths = {
        "truncation": "refuse",
        "long_answers": {"train": 7, "validation": 0},
        "cut_prompts": {"train": 1234, "validation": 56},
        "dropped_pairs": [f"maths.jsonl:{line}" for line in range(25)],
    }
    write_json(getattr(writer.run.stage("sft"), record), lengths)
    text = text_of(page_of(writer.run))
    assert "train 7 1,234 validation 0 56" in text
    assert "left out, answer too long" in text
    assert "maths.jsonl:19 and 5 more" in text


def test_each_source_has_its_validation_loss(tmp_path):
    writer = RunWriter(tmp_path / "sources")
    writer.steps("pretrain", 1, 1, 20)
    metrics = writer.run.stage("pretrain").metrics
    *steps, score = [json.loads(line) for line in metrics.read_text().splitlines()]
    score |= {"eval/loss/code": 1.25, "eval/loss/web": None, "eval/loss/<b>": 4.5}
    metrics.write_text("".join(json.dumps(record) + "\n" for record in [*steps, score]))
    validation = {"samples": {"code": 12, "web": 0, "<b>": 4}, "spaced": True}
    write_json(writer.run.stage("pretrain").data, {"validation": validation})
    page = page_of(writer.run)
    assert "Validation by source" in page
    assert "code 1.250 3.49 12 &lt;b&gt; 4.500 90.0 4" in text_of(page).replace("<b>", "&lt;b&gt;")


def test_tasks_of_the_harness_stand_with_their_first_and_last_figures(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.event("started", "pretrain", attempt=1)
    writer.steps("pretrain", 1, 1, 80)
    path = writer.run.stage("pretrain").metrics
    records = [json.loads(line) for line in path.read_text().splitlines()]
    figures = {40: (0.25, 0.031), 80: (0.4625, 0.022)}
    for record in records:
        if "eval/loss" in record:
            accuracy, error = figures[record["train/global_step"]]
            name = "tasks/arc <i>/acc"
            record |= {name: accuracy, f"{name}_stderr": error}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    page = page_of(writer.run)
    assert "arc <i>" not in page
    text = text_of(page)
    assert "task metric step 40 step 80 standard error" in text
    assert "arc &lt;i&gt; acc 0.250 0.463 0.0220" in text


def test_values_that_are_not_finite_leave_gaps(tmp_path):
    writer = RunWriter(tmp_path / "gaps")
    writer.steps("pretrain", 1, 1, 20)
    metrics = writer.run.stage("pretrain").metrics
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    records[9]["train/loss"] = None
    records[9]["train/grad_norm"] = float("inf")
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    counts = dict(PATH.findall(page_of(writer.run)))
    assert counts == {
        "train": "19",
        "validation": "1",
        "learning rate": "20",
        "gradient norm": "19",
        "throughput": "20",
        "memory": "20",
    }


def test_damaged_files_cost_only_their_part_and_are_named(tmp_path):
    run = finished_run(tmp_path / "damaged")
    run.environment.write_text("{ torn")
    run.stage("sft").result.write_bytes(b"\xff\xfe\x00")
    with run.stage("pretrain").metrics.open("a") as stream:
        stream.write("no json\n17\n")
    page = page_of(run)
    damage = re.findall(r'class="damage">Could not be read: ([^<:]*):', page)
    assert damage == ["damaged/environment.json", "pretrain/metrics.jsonl", "sft/result.json"]
    assert ("train", "430") in PATH.findall(page)


def test_what_runs_write_cannot_become_markup(tmp_path):
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    writer = RunWriter(tmp_path / "evil")
    writer.run.resolved.write_text(
        f"name: x # {evil}\nstages:\n  {json.dumps(evil)}: {{kind: sft}}\n"
    )
    writer.event("failed", evil, attempt=1, reason=evil)
    writer.event(evil, "pretrain", attempt=1)
    write_json(writer.run.environment, {evil: evil})
    write_json(writer.run.stage("pretrain").result, pretrain_result() | {"folder": evil})
    writer.done("prepare", {"documents": 1, "dropped": {evil: 3}, "splits": {evil: {}}})
    page = page_of(writer.run)
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 6


def test_results_of_another_shape_do_not_break_the_page(tmp_path):
    writer = RunWriter(tmp_path / "odd")
    for stage in ("prepare", "evaluate", "export", "pretrain", "sft"):
        odd = {"splits": [1], "dropped": "none", "documents": [], "answers": 3, "folder": [],
               "eval_loss": "low", "eval_loss_base": True, "pairs": 7}  # fmt: skip
        write_json(writer.run.stage(stage).result, odd)
        writer.state(stage, "done", 1)
    assert "All 5 stages done" in page_of(writer.run)


def test_five_thousand_records_are_all_drawn(tmp_path):
    writer = RunWriter(tmp_path / "long", max_steps=5000)
    writer.steps("pretrain", 1, 1, 5000)
    page = page_of(writer.run)
    assert set(PATH.findall(page)) >= {("train", "5000"), ("memory", "5000"), ("validation", "125")}
    assert "Drawn:" not in page


def test_more_records_are_thinned_and_the_page_says_so(tmp_path):
    writer = RunWriter(tmp_path / "longer", max_steps=12_001)
    writer.steps("pretrain", 1, 1, 12_001)
    writer.steps("sft", 1, 1, 7000)
    page = page_of(writer.run)
    (note, _) = re.findall(r"Drawn: ([\d,]+) of ([\d,]+) step records", page)
    assert note[1] == "12,001"
    drawn = int(note[0].replace(",", ""))
    assert ("train", str(drawn)) in PATH.findall(page)
    assert 1000 < drawn <= 5000


def test_missing_run_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(NotFoundError, match="distrain list"):
        write_report(RunFolder(tmp_path / "nowhere"))


@pytest.mark.parametrize("make_run", [finished_run, curated_run])
def test_report_needs_no_torch_and_no_numpy(tmp_path, make_run):
    run = make_run(tmp_path / "quickstart")
    script = (
        "import sys; from pathlib import Path; from launcher.report.page import write_report;"
        "from distrain.runs.folder import RunFolder;"
        f"write_report(RunFolder(Path({str(run.root)!r}))); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_balancing_loss_is_drawn_where_steps_have_it(tmp_path, finished):
    writer = RunWriter(tmp_path / "experts")
    record = writer._step(1, 1, 3.0, 0.1, 20) | {"train/balancing_loss": 2.0625}
    writer._append(writer.run.stage("pretrain").metrics, record)
    assert "Balancing loss experts per token" in text_of(page_of(writer.run))
    assert "Balancing loss" not in finished


def test_the_metrics_of_another_task_are_shown_and_drawn_by_their_names(tmp_path):
    writer = RunWriter(tmp_path / "other")
    text = writer.run.resolved.read_text()
    writer.run.resolved.write_text(text.replace("max_steps: 430", "task: pairwise, max_steps: 430"))
    for step in range(1, 21):
        record = writer._step(1, step, 3.0, 0.1, 20) | {"train/preference": 1 / step}
        writer._append(writer.run.stage("pretrain").metrics, record | {"train/agreement": 0.5})
    score = {"train/global_step": 20, "attempt": 1, "time": writer.time()}
    for name, value in (("preference", 0.125), ("agreement", 0.75)):
        score |= {f"eval/{name}": value, f"eval/{name}/code": value, f"eval/{name}/web": value}
    writer._append(writer.run.stage("pretrain").metrics, score)
    with pairwise.registered():
        page = page_of(writer.run)
    shown = text_of(page)
    assert "train preference 0.050 last step, nats" in shown
    assert "validation preference 0.125 last; best 0.125" in shown
    assert "validation agreement 0.75 last" in shown
    assert "nats per weighted pair" in shown
    assert "source preference agreement samples measured code 0.125 0.75" in shown
    assert "Validation preference 0.125 after 20 steps." in shown
    assert "erplexity" not in shown
