"""A recipe small enough to run whole in a test, on real text, and how a run is read afterwards."""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

CORPUS_PACKAGES = ("json", "email", "logging", "http", "html", "urllib")

PREPARE = """\
  prepare:
    kind: prepare
    data:
      source: {{kind: files, paths: ["{corpus}"]}}
      validation_fraction: 0.2
      test_fraction: 0.2
"""
"""A recipe's first stage, but for its tokenizer and pairs; ``corpus`` is to be filled in."""

RECIPE = (
    """\
name: tiny
seed: 7
defaults:
  training: {{sequence_length: 64, global_batch_size: 8, micro_batch_size: 2}}
  optimizer: {{learning_rate: 3e-3}}
  lr_scheduler: {{name: cosine, warmup_steps: 4}}
  checkpoint: {{save_steps: 5, keep_last: 2}}
  eval: {{eval_steps: 10, max_batches: 2}}
  logging: {{logging_steps: 5}}
stages:
"""
    + PREPARE
    + """\
    tokenizer: {{vocab_size: 512}}
    pairs: {{kind: docstrings}}
  pretrain:
    kind: pretrain
    needs: prepare
    model:
      hidden_size: 32
      num_hidden_layers: 2
      num_attention_heads: 2
      intermediate_size: 64
      dropout: 0.1
    training: {{max_steps: {steps}}}
  sft:
    kind: sft
    needs: pretrain
    model: {{dropout: 0.1}}
    training: {{max_steps: {sft_steps}}}
    lora: {{r: 4, alpha: 8}}
    data: {{truncation: cut}}
  evaluate: {{kind: evaluate, needs: sft}}
  export: {{kind: export, needs: sft, reload: false}}
launch: {{processes_per_node: {processes}}}
"""
)

LINE = """\
  anneal:
    kind: pretrain
    needs: [prepare, pretrain]
    training: {{max_steps: {steps}}}
    lr_scheduler: {{name: constant}}
  sft:
    kind: sft
    needs: anneal
    model: {{dropout: 0.1}}
    training: {{max_steps: {steps}}}
    lora:
      r: 4
      alpha: 8
      rank_pattern: {{down_proj: 2}}
      alpha_pattern: {{'layers\\.1\\..*': 4}}
      use_rslora: true
      use_dora: true
      modules_to_save: [embed_tokens, model.norm]
    data: {{truncation: cut}}
  sft2:
    kind: sft
    needs: sft
    training: {{max_steps: {steps}}}
    lora: {{r: 2, alpha: 8, target_modules: [q_proj, up_proj]}}
    data: {{truncation: cut}}
  evaluate: {{kind: evaluate, needs: sft2}}
  export: {{kind: export, needs: sft2, reload: false}}
"""
"""Several stages of a kind, each from the one before: in the place of ``sft`` and what follows. The
first fine-tuning has all that adapters may have, and unties the embedding."""

EXACT_FIELDS = (
    "train/global_step",
    "train/loss",
    "train/grad_norm",
    "train/learning_rate",
    "data/first_sample",
    "data/batch_hash",
    "eval/loss",
)
"""What a run that was killed must repeat bit for bit."""


def write_corpus(folder: Path, packages: Sequence[str] = CORPUS_PACKAGES) -> Path:
    """Copy modules of the standard library, some fifty of all packages."""
    folder.mkdir(parents=True, exist_ok=True)
    library = Path(sysconfig.get_path("stdlib"))
    for package in packages:
        for module in sorted((library / package).glob("*.py")):
            (folder / f"{package}_{module.name}").write_bytes(module.read_bytes())
    return folder


def write_recipe(
    folder: Path, *, processes: int = 2, steps: int = 20, sft_steps: int = 10, extra: str = ""
) -> Path:
    """Write the tiny recipe and its corpus into ``folder``."""
    corpus = write_corpus(folder / "corpus")
    path = folder / "tiny.yaml"
    text = RECIPE.format(corpus=corpus, processes=processes, steps=steps, sft_steps=sft_steps)
    path.write_text(text + extra)
    return path


def write_line(folder: Path, *, processes: int = 1, steps: int = 10) -> Path:
    """Write a recipe in which two stages of each kind of training follow each other."""
    corpus = write_corpus(folder / "corpus", ("json", "logging", "http", "html"))
    text = RECIPE.format(corpus=corpus, processes=processes, steps=steps, sft_steps=steps)
    head, _, rest = text.partition("  sft:\n")
    head = head.replace("dropout: 0.1", "dropout: 0.1\n      tie_word_embeddings: true")
    path = folder / "tiny.yaml"
    path.write_text(head + LINE.format(steps=steps) + rest[rest.index("launch:") :])
    return path


def environment(runs: Path) -> dict[str, str]:
    """Environment of a ``distrain`` command whose run folders lie in ``runs``."""
    return {**os.environ, "DISTRAIN_RUNS_DIR": str(runs), "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}


def command(*arguments: str) -> list[str]:
    """Return the ``distrain`` command of this checkout."""
    return [sys.executable, "-m", "launcher", *arguments]


def distrain(
    runs: Path, *arguments: str, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a ``distrain`` command to its end."""
    return subprocess.run(
        command(*arguments),
        env=environment(runs),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def exact_records(run: Path, stage: str) -> list[dict[str, object]]:
    """Read the fields of a stage's records that must not depend on interruptions."""
    lines = (run / stage / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [{key: record.get(key) for key in EXACT_FIELDS} for record in records]


def tensor_digests(run: Path, stage: str) -> dict[str, str]:
    """Digest every tensor of a stage's newest checkpoint, moments included."""
    from distrain.checkpoint.dcp import read_full

    newest = max((run / stage / "checkpoints").glob("step_*"), key=lambda path: path.name)
    tensors = read_full(newest, prefix="")
    return {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def events(run: Path, kind: str | None = None) -> list[dict[str, object]]:
    """Read the run's events, of one kind or all."""
    lines = (run / "events.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record for record in records if kind in (None, record["event"])]
