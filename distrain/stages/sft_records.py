"""What an sft stage writes of its examples before the first step: counts, and some of them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from distrain.config.recipe import FinetuneStage
from distrain.data.chats.example import EncodedExample
from distrain.data.tokenizer.reader import Reader
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.runs.durable import write_text
from distrain.runs.folder import StageFolder
from distrain.runs.records import json_text
from distrain.stages.sft_samples import ExampleSamples

NAMED = 100
"""Of the examples that are left out, in ``data.json``; ``rejections.jsonl`` has more of them."""
KEPT = 20
"""In ``rejections.jsonl``, of each split, source and reason."""
SHOWN = 3
SHOWN_TOKENS = 400
"""Of one example in ``examples.jsonl``; of a longer one the end, where the answer is."""


def lengths_record(splits: Mapping[str, ExampleSamples], stage: FinetuneStage) -> dict[str, Any]:
    """Say what did not fit, for ``data.json`` and ``result.json``."""
    lengths = {name: found.lengths for name, found in splits.items()}
    return {
        "truncation": stage.data.truncation,
        "packing": stage.data.packing,
        "long_answers": {name: found.long_answers for name, found in lengths.items()},
        "cut_prompts": {
            name: found.effects.get("cut_context", 0) for name, found in lengths.items()
        },
        "rows": {name: found.figures() for name, found in splits.items()},
        "positions": "needed" if needs_only(splits) else "all",
        "effects": {name: dict(found.effects) for name, found in lengths.items()},
        "dropped_pairs": [left.path for found in splits.values() for left in found.left_out][
            :NAMED
        ],
    }


def needs_only(splits: Mapping[str, ExampleSamples]) -> bool:
    """Return whether a pass computes only the positions that targets need."""
    return all(samples.form.needed_only for samples in splits.values())


def write_examples(
    folder: StageFolder, splits: Mapping[str, ExampleSamples], tokenizer: Tokenizer, seed: int
) -> None:
    """Write some of the train examples as they are trained, and some of those left out."""
    reader = Reader(tokenizer)
    shown = [
        {"source": source, **show_example(example, reader, SHOWN_TOKENS)}
        for source, example in choose_examples(splits["train"], SHOWN, seed)
    ]
    rejected, counts = [], Counter[tuple[str, str, str]]()
    for split, samples in splits.items():
        for left in samples.left_out:
            key = (split, left.source, left.reason)
            counts[key] += 1
            if counts[key] <= KEPT:
                text = left.detail
                if left.example is not None:
                    ids = left.example.ids[:SHOWN_TOKENS].tolist()
                    text = f"{left.needed} tokens: {tokenizer.decode(ids)}"
                rejected.append(
                    {
                        "source": left.source,
                        "split": split,
                        "reason": left.reason,
                        "path": left.path,
                        "text": text,
                    }
                )
    for path, records in ((folder.examples, shown), (folder.rejections, rejected)):
        write_text(path, "".join(json_text(record) + "\n" for record in records))


def choose_examples(
    samples: ExampleSamples, count: int, seed: int
) -> list[tuple[str, EncodedExample]]:
    """Choose ``count`` different examples, each as likely, in their order.

    Of a preference both answers are shown, the chosen one first.
    """
    size = samples.answers
    found = [
        [(source, answer) for answer in some[first : first + size]]
        for source, some in samples.fitted.items()
        for first in range(0, len(some), size)
    ]
    numbers = np.random.default_rng(seed).choice(len(found), min(count, len(found)), replace=False)
    return [each for number in np.sort(numbers).tolist() for each in found[number]]


def show_example(example: EncodedExample, reader: Reader, max_tokens: int = 0) -> dict[str, Any]:
    """Describe an example: where it was read, its pieces, and which of them are trained.

    Args:
        example: As a row takes it.
        reader: Of its ids.
        max_tokens: Of its end, at most; 0: all.
    """
    first = max(0, len(example.ids) - max_tokens) if max_tokens else 0
    ids, is_trained = example.ids[first:].astype(np.int64), example.is_trained[first:].copy()
    if first == 0 and len(ids):
        is_trained[0] = False  # nothing stands before it that could predict it
    pieces = []
    for part in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(is_trained)) + 1):
        if len(part):
            trained = bool(is_trained[part[0]])
            pieces += [piece | {"trained": trained} for piece in reader.pieces(ids[part])]
    return {
        "path": example.path,
        "tokens": len(example.ids),
        "trained": int(example.is_trained[1:].sum()),
        "left": first,
        "pieces": pieces,
    }
