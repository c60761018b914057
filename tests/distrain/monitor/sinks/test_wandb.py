"""Real wandb, offline; its transaction log is read back and compared with metrics.jsonl."""

import json
import struct
import subprocess
import sys

from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records

BLOCK = 32 * 1024
FULL, LAST = 1, 4

ATTEMPT = """
import sys
from pathlib import Path
from distrain.runs.folder import RunFolder
from distrain.config.training import LoggingConfig, WandbConfig
from distrain.monitor.monitor import Monitor, Workload
from distrain.monitor.step_result import StepResult

attempt, first, last = map(int, sys.argv[2:])
workload = Workload(30, 1, 1e6, 1e11)
config = LoggingConfig(wandb=WandbConfig(project="test"))
with Monitor(RunFolder(Path(sys.argv[1])), "pretrain", attempt, workload, config) as monitor:
    for step in range(first, last + 1):
        loss = float("nan") if step == 7 else 8.3 / step
        result = StepResult(loss, 1e-3, 0.4, step != 7, 8 * step, 8, 64, 60, 1, 0.5)
        monitor.record_step(step, result, step_time_s=0.25, data_time_s=0.01)
        if step % 5 == 0:
            by_source = {"web": {"loss": 9 / step}, "code": {"loss": 1.0}}
            monitor.record_scores(step, {"loss": 9 / step}, by_source)
"""


def run_attempt(root, attempt, first, last):
    command = [sys.executable, "-c", ATTEMPT, str(root), str(attempt), str(first), str(last)]
    subprocess.run(command, check=True, timeout=120)


def transaction_log(path):
    """Yield the payloads of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, []
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts.append(data[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []


def read_run(path):
    """Run id and history rows of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    run_id, rows = None, []
    for payload in transaction_log(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        if record.WhichOneof("record_type") == "run":
            run_id = record.run.run_id
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in items
                }
            )
    return run_id, rows


def rows_of(records):
    """What W&B should hold: the records of a step in one row, without what is null."""
    rows: dict[int, dict] = {}
    for record in records:
        fields = {key: value for key, value in record.items() if "/" in key and value is not None}
        rows.setdefault(record["train/global_step"], {}).update(fields)
    return list(rows.values())


def without_own(row):
    return {key: value for key, value in row.items() if not key.startswith("_")}


def test_offline_run_holds_the_points_of_metrics_jsonl_under_one_id_over_two_attempts(tmp_path):
    root = tmp_path / "quickstart"
    run_attempt(root, 1, 1, 12)
    run_attempt(root, 2, 13, 30)
    files = sorted((root / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    ids, rows = zip(*map(read_run, files), strict=True)
    run = RunFolder(root)
    assert set(ids) == {run.stage("pretrain").sink_run_id.read_text().strip()}
    copied = [without_own(row) for attempt in rows for row in attempt]
    expected = rows_of(read_records(run.stage("pretrain").metrics))
    assert len(expected) == 30
    assert copied == expected
    events = [event["event"] for event in read_records(run.events)]
    assert "sink_failed" not in events
