"""Run folders with synthetic but realistic records, for the tests of the report."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from distrain.runs.folder import RunFolder
from distrain.runs.records import STEP_FIELDS, write_json

START = datetime(2026, 3, 14, 9, 30, tzinfo=UTC)
KINDS = {
    "prepare": "prepare",
    "pretrain": "pretrain",
    "sft": "sft",
    "evaluate": "evaluate",
    "export": "export",
}


class RunWriter:
    """Writes a run folder as the runtime would, on a clock of its own."""

    def __init__(self, root: Path, max_steps: int = 430) -> None:
        root.mkdir(parents=True)
        self.run = RunFolder(root)
        self.now = START
        self.random = random.Random(7)
        lines = ["version: 1", f"name: {root.name}", "seed: 42", "stages:"]
        for name, kind in KINDS.items():
            lines += [f"  {name}:", f"    kind: {kind}"]
            if kind in ("pretrain", "sft"):
                steps = max_steps if kind == "pretrain" else 120
                lines.append("    needs: [prepare]")
                lines.append(f"    training: {{max_steps: {steps}, global_batch_size: 8}}")
        self.run.resolved.write_text("\n".join(lines) + "\n")

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def time(self) -> str:
        return self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def event(self, event: str, stage: str, **fields: object) -> None:
        self._append(
            self.run.events, {"time": self.time(), "event": event, "stage": stage} | fields
        )

    def state(self, stage: str, state: str, attempt: int, step: int = 0) -> None:
        value = {"state": state, "attempt": attempt, "step": step, "requeue": False}
        write_json(self.run.stage(stage).state, value | {"time": self.time()})

    def done(self, stage: str, result: dict, seconds: float = 10, attempt: int = 1) -> None:
        """A stage without steps, from beginning to end."""
        self.event("started", stage, attempt=attempt)
        self.wait(seconds)
        self.event("finished", stage, attempt=attempt, step=0)
        write_json(self.run.stage(stage).result, result)
        self.state(stage, "done", attempt)

    def steps(self, stage: str, attempt: int, first: int, last: int, **options: float) -> None:
        """Step records, with a validation every 40 steps."""
        floor = options.get("floor", 4.6)
        begin = options.get("begin", 8.4)
        step_s = options.get("step_s", 0.35)
        total = int(options.get("total", last))
        records = []
        for step in range(first, last + 1):
            self.wait(step_s)
            noise = self.random.gauss(0, 0.06)
            loss = floor + (begin - floor) * math.exp(-step / 90) + noise
            records.append(self._step(attempt, step, loss, step_s, total))
            if step % 40 == 0 or step == total:
                score = loss - noise + 0.08
                records.append(
                    {
                        "time": self.time(),
                        "attempt": attempt,
                        "train/global_step": step,
                        "eval/loss": score,
                        "eval/perplexity": math.exp(score),
                    }
                )
        self._append(self.run.stage(stage).metrics, *records)

    def _step(self, attempt: int, step: int, loss: float, step_s: float, total: int) -> dict:
        shape = min(step / 40, 0.1 + 0.45 * (1 + math.cos(math.pi * min(step / total, 1))))
        jitter = abs(self.random.gauss(1, 0.04))
        record = {
            "train/global_step": step,
            "train/loss": loss,
            "train/learning_rate": 3e-3 * shape,
            "train/grad_norm": (0.4 + 4 * math.exp(-step / 12)) * jitter,
            "train/tokens_seen": step * 2048,
            "train/applied": True,
            "data/first_sample": 8 * (step - 1),
            "data/num_samples": 8,
            "data/num_targets": 2040,
            "data/batch_hash": self.random.getrandbits(32),
            "perf/step_time_s": step_s * jitter,
            "perf/data_time_s": 0.002,
            "perf/tokens_per_sec": 2048 / (step_s * jitter),
            "perf/mfu": 0.31 / jitter,
            "memory/max_gib": 0.61 + 0.1 * min(step / 30, 1),
        }
        assert set(record) == set(STEP_FIELDS)
        return {"time": self.time(), "attempt": attempt} | record

    def samples(self, stage: str, steps: Sequence[int], texts: Mapping[str, str]) -> None:
        """What was written to each prompt at some steps."""
        for step in steps:
            for prompt, text in texts.items():
                record = {"train/global_step": step, "prompt": prompt, "text": f"{step}: {text}"}
                ended = "stop" if step % 2 else "length"
                self._append(self.run.stage(stage).samples, record | {"ended": ended})

    @staticmethod
    def _append(path: Path, *records: dict) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)


def environment() -> dict:
    return {
        "python": "3.11.2",
        "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
        "hostname": "node01",
        "cpus": 2,
        "gpus": [],
        "packages": {"torch": "2.13.0", "distrain": "0.1.0"},
        "git": {"commit": "0123abc", "dirty": False},
    }


def prepare_result() -> dict:
    return {
        "documents": 688,
        "dropped": {"duplicate": 4, "empty": 31, "not text": 2},
        "splits": {
            "train": {"documents": 646, "tokens": 3_154_022, "bytes": 11_021_331},
            "validation": {"documents": 21, "tokens": 97_412, "bytes": 340_112},
            "test": {"documents": 21, "tokens": 101_223, "bytes": 352_004},
        },
        "vocab_size": 4096,
        "pairs": {"train": 5120, "validation": 160, "test": 171},
    }


def pretrain_result(last_step: int = 430) -> dict:
    return {
        "steps": last_step,
        "tokens": last_step * 2048,
        "train_loss": 4.62,
        "eval_loss": 4.71,
        "best_eval_loss": 4.71,
        "unigram_entropy": 6.312,
        "unigram_cross_entropy": 6.641,
        "parameters": 2_541_000,
        "seconds": 151.0,
    }


def sft_result() -> dict:
    return {
        "steps": 120,
        "tokens": 245_760,
        "train_loss": 3.02,
        "eval_loss_base": 4.402,
        "eval_loss": 3.214,
        "eval_loss_base_shuffled_prompts": 4.655,
        "eval_loss_shuffled_prompts": 3.871,
        "parameters": 2_541_000,
        "trainable_parameters": 131_072,
        "pairs": {"train": 5120, "validation": 160},
        "seconds": 48.0,
    }


SAMPLES = {
    "Return the <b>name</b> of a file.": "</pre><script>alert(1)</script>\x1b[31m",
    "Open": "word " * 400,
    "Say nothing": "\n\n",
}


def finished_run(root: Path) -> RunFolder:
    """All five stages, with a kill in pretraining and a quarantined checkpoint."""
    writer = RunWriter(root)
    write_json(writer.run.environment, environment())
    writer.done("prepare", prepare_result(), seconds=14)
    writer.event("started", "pretrain", attempt=1)
    writer.steps("pretrain", 1, 1, 250, total=430)
    writer.event("checkpoint", "pretrain", attempt=1, step=250)
    writer.wait(3)
    writer.event("restarted", "pretrain", reason="no word of its end (signal 9)")
    writer.event("started", "pretrain", attempt=2)
    writer.event(
        "quarantined", "pretrain", attempt=2, step=300, reason="shard_0_1.distcp: digest differs"
    )
    writer.event("resumed", "pretrain", attempt=2, step=250)
    writer.steps("pretrain", 2, 251, 430)
    writer.event("finished", "pretrain", attempt=2, step=430)
    write_json(writer.run.stage("pretrain").result, pretrain_result())
    writer.state("pretrain", "done", 2, 430)
    writer.event("started", "sft", attempt=1)
    writer.wait(6)
    writer.steps("sft", 1, 1, 120, floor=3.0, begin=4.4)
    writer.samples("sft", range(0, 121, 5), SAMPLES)
    writer.event("finished", "sft", attempt=1, step=120)
    write_json(writer.run.stage("sft").result, sft_result())
    writer.state("sft", "done", 1, 120)
    writer.done(
        "evaluate",
        {
            "documents": {
                "loss": 4.688,
                "perplexity": 108.6,
                "bits_per_byte": 1.945,
                "targets": 101_202,
            },
            "answers": {
                "loss": 3.255,
                "loss_base": 4.43,
                "loss_shuffled_prompts": 3.89,
                "loss_base_shuffled_prompts": 4.67,
                "pairs": 171,
            },
        },
        seconds=9,
    )
    writer.done(
        "export",
        {
            "folder": "export/huggingface",
            "parameters": 2_541_000,
            "size_bytes": 10_415_002,
            "has_adapter": True,
        },
        seconds=12,
    )
    return writer.run


def failed_run(root: Path) -> RunFolder:
    """Pretraining that was stopped once, crashed once, and then failed for good."""
    writer = RunWriter(root)
    writer.done("prepare", prepare_result(), seconds=14)
    for attempt, (first, last) in enumerate(((1, 10), (11, 20), (21, 30)), start=1):
        if attempt == 3:
            writer.event("restarted", "pretrain", attempt=3, reason="killed by SIGKILL")
        writer.event("started", "pretrain", attempt=attempt)
        writer.steps("pretrain", attempt, first, last, total=430)
        if attempt == 1:
            writer.event("stopped", "pretrain", attempt=1, step=10)
    writer.state("pretrain", "running", 3, 20)
    remedy = "Lower the learning rate."
    message = f"pretrain: found <nan>; expected a finite loss. {remedy}"
    error = {"exit_code": 6, "message": message, "remedy": remedy, "time": writer.time()}
    write_json(writer.run.stage("pretrain").error, error)
    return writer.run


HOSTILE_TEXTS = (
    "</pre></details><script>alert('hostile')</script><img src=x onerror=alert(1)>",
    "x" * 500,
    "bell \x07, escape \x1b[31m, nul \x00, to the left \u202eesrever, half a pair \ud800, \u2028",
    "Z" + "\u0351\u036b\u0343\u036a\u0302" * 80,
    "\n" * 400,
    None,
)


def curated_result() -> dict[str, Any]:
    """Two sources, as a prepare stage with filters, quality columns and labels writes them."""
    quality: dict[str, Any] = {
        "documents": 900,
        "mean": 273.7294117647059,
        "quantiles": {"0.01": 18.0, "0.5": 153.0, "0.99": 1692.25},
    }
    web: dict[str, Any] = {
        "read": 1200,
        "kept": {"train": 900, "validation": 50, "test": 50},
        "rejected": {"gopher_quality.min_words": 150, "duplicate": 48, "contaminated": 1},
        "broken": {"not_utf8": 1},
        "bytes": {"train": 9_000_000, "validation": 400_000, "test": 400_000},
        "tokens": {"train": 640_001, "validation": 30_000, "test": 30_000},
        "quality": {"words": quality},
        "labels": {
            "documents": 1000,
            "missing": 7,
            "labels": {"good": 900, "<b>bad</b>": 93},
            "conflicting": 2,
            "conflicts": [],
            "missing_paths": [],
        },
    }
    code: dict[str, Any] = {
        "read": 300,
        "kept": {"train": 250, "validation": 25, "test": 20},
        "rejected": {"empty": 5},
        "broken": {},
        "bytes": {"train": 4_000_000, "validation": 200_000, "test": 200_000},
        "tokens": {"train": 320_001, "validation": 15_000, "test": 15_000},
    }
    splits = {
        split: {
            "documents": web["kept"][split] + code["kept"][split],
            "tokens": web["tokens"][split] + code["tokens"][split],
            "bytes": web["bytes"][split] + code["bytes"][split],
        }
        for split in ("train", "validation", "test")
    }
    return {
        "documents": 1295,
        "read": 1500,
        "dropped": web["rejected"] | web["broken"] | code["rejected"],
        "sources": {"web": web, "code": code},
        "splits": splits,
        "tokens": sum(split["tokens"] for split in splits.values()),
        "bytes": sum(split["bytes"] for split in splits.values()),
        "tokens_per_byte": 0.0739,
        "vocab_size": 4096,
        "pairs": {},
    }


def rejections(source: str, reason: str, texts: tuple[str | None, ...] = HOSTILE_TEXTS) -> list:
    return [
        {"source": source, "reason": reason, "path": f"{source}/<i>{n}</i>.txt", "text": text}
        for n, text in enumerate(texts)
    ]


def data_record(**changes: object) -> dict:
    """What a pretraining stage reads: two sources, their weights turned around on the way."""
    schedule = [
        {
            "first_step": step,
            "first_sample": 8 * step,
            "batch_size": 8,
            "weights": weights,
            "by_size": False,
        }
        for step, weights in ((0, {"web": 3.0, "code": 1.0}), (100, {"web": 0.2, "code": 0.8}))
    ]
    return {
        "time": "2026-03-14T09:30:00.000Z",
        "attempt": 1,
        "step": 0,
        "max_steps": 300,
        "seed": 42,
        "sequence_length": 64,
        "schedule": schedule,
        "sources": {"web": "0a4e", "code": "cbe7"},
        **changes,
    }


def curated_run(root: Path) -> RunFolder:
    """A mixture of two curated sources, in the middle of pretraining."""
    writer = RunWriter(root, max_steps=300)
    writer.done("prepare", curated_result(), seconds=20)
    examples = [
        *rejections("web", "duplicate", HOSTILE_TEXTS[1:]),
        *rejections("web", "gopher_quality.min_words"),
        *rejections("web", "not_utf8", (None,)),
        *rejections("code", "empty", ("",)),
    ]
    writer._append(writer.run.stage("prepare").rejections, *examples)
    writer.event("started", "pretrain", attempt=1)
    write_json(writer.run.stage("pretrain").data, data_record())
    writer.steps("pretrain", 1, 1, 200, total=300)
    writer.state("pretrain", "running", 1)
    return writer.run
