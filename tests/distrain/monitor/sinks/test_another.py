"""Another sink is its writer, a line in SINKS and a section under ``logging``."""

import json
from typing import ClassVar

from distrain.config.reading.load import load_recipe
from distrain.config.training import LoggingConfig, SinkSection
from distrain.monitor.monitor import Monitor, Workload
from distrain.monitor.sinks import SINKS
from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from launcher.preflight import _needed_modules
from tests.distrain.monitor.test_monitor import record_step
from tests.tiny import write_recipe

WORKLOAD = Workload(max_steps=9, num_ranks=1, flops_per_token=1e6, peak_flops=1e11)


class LinesConfig(SinkSection):
    extra: ClassVar[str] = "lines"
    module: ClassVar[str] = "no_such_module"
    file: str


class Logging(LoggingConfig):
    lines: LinesConfig | None = None


class LinesWriter:
    def __init__(self, run, section):
        self.stream = (run.root / section.file).open("a")

    def write(self, record):
        self.stream.write(json.dumps(record) + "\n")

    def close(self):
        self.stream.close()


def test_it_gets_every_record_and_its_module_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(SINKS, "lines", LinesWriter)
    run = RunFolder(tmp_path / "run")
    run.stage("pretrain").path.mkdir(parents=True)
    logging = Logging(lines=LinesConfig(file="copy.jsonl"))
    with Monitor(run, "pretrain", 1, WORKLOAD, logging) as monitor:
        for step in (1, 2):
            monitor.record_scores(step, {"loss": 2.0 / step}, {})
    copied = [json.loads(line) for line in (run.root / "copy.jsonl").read_text().splitlines()]
    assert [record["eval/loss"] for record in copied] == [2.0, 1.0]
    assert copied == list(read_records(run.stage("pretrain").metrics))

    recipe = load_recipe(write_recipe(tmp_path)).recipe
    assert ("lines", "no_such_module") not in _needed_modules(recipe)
    pretrain = recipe.stages["pretrain"].model_copy(update={"logging": logging})
    stages = dict(recipe.stages) | {"pretrain": pretrain}
    changed = recipe.model_copy(update={"stages": stages})
    assert ("lines", "no_such_module") in _needed_modules(changed)


def test_after_a_rewind_it_gets_no_step_twice_and_hears_on_from_the_first_new_one(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(SINKS, "lines", LinesWriter)
    run = RunFolder(tmp_path / "run")
    run.stage("pretrain").path.mkdir(parents=True)
    logging = Logging(lines=LinesConfig(file="copy.jsonl"))
    with Monitor(run, "pretrain", 1, WORKLOAD, logging) as monitor:
        for step in (1, 2, 3):
            record_step(monitor, step, loss=4.0)
        monitor.record_scores(3, {"loss": 3.0}, {})
        monitor.truncate_after(1)
        for step in (2, 3, 4):
            record_step(monitor, step, loss=5.0)
    copied = [json.loads(line) for line in (run.root / "copy.jsonl").read_text().splitlines()]
    told = [(r["train/global_step"], r.get("train/loss")) for r in copied]
    assert told == [(1, 4.0), (2, 4.0), (3, 4.0), (3, None), (4, 5.0)]
    kept = list(read_records(run.stage("pretrain").metrics))
    assert [r["train/loss"] for r in kept] == [4.0, 5.0, 5.0, 5.0]
