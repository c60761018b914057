"""The reference of a preference stage, computed once before its first step and kept."""

import logging
import time
from typing import Any

import numpy as np

from distrain.checkpoint.agreement import on_first
from distrain.checkpoint.layout import committed
from distrain.config.recipe import PreferenceStage
from distrain.data.samples.pairs import PairDataset
from distrain.errors import DataError
from distrain.finetune.reference import compute_reference
from distrain.runs.records import read_json, write_json
from distrain.stages.context import StageContext
from distrain.stages.finetuning import Tuning
from distrain.stages.preference_samples import PairSamples

log = logging.getLogger(__name__)

Said = dict[str, dict[str, list[list[float]]]]
"""Split -> source -> log-probabilities of the chosen and the rejected answer of each pair."""


def keep_reference(context: StageContext, stage: PreferenceStage, tuning: Tuning) -> None:
    """Give every pair what the base says of it: from the stage's folder, or anew. Collective.

    The file is there whole or not at all, so that a stage killed before computes it again. A stage
    that goes on takes what its steps so far have used.

    Raises:
        DataError: The stage has trained with the reference of another base or of other pairs, or
            the base finds an answer impossible.
    """
    splits = {"train": tuning.train, "validation": tuning.validation}
    made_of = on_first(tuning.run.host, lambda: _made_of(context, stage, splits))
    said = on_first(tuning.run.host, lambda: _read(context, made_of))
    if said is None:
        said = _compute(stage, tuning, splits)
        found = said
        on_first(
            tuning.run.host,
            lambda: write_json(context.folder.reference, {"made_of": made_of, "said": found}),
        )
    for split, samples in splits.items():
        for source, pairs in _pairs(samples).items():
            pairs.reference = np.array(said[split][source])


def _pairs(samples: object) -> dict[str, PairDataset]:
    assert isinstance(samples, PairSamples), "the stage reads preferences"
    return dict(samples.pairs)


def _compute(stage: PreferenceStage, tuning: Tuning, splits: dict[str, Any]) -> Said:
    started, run = time.monotonic(), tuning.run
    said: Said = {}
    for split, samples in splits.items():
        said[split] = {}
        for source, pairs in _pairs(samples).items():
            values = compute_reference(
                run.engine.model,
                pairs,
                run.device,
                stage.training.micro_batch_size,
                run.engine.ranks,
            )
            if not np.isfinite(values).all():
                (first, *_), _ = np.nonzero(~np.isfinite(values))
                raise DataError(
                    samples.fitted[source][2 * first].path,
                    "an answer of which the base says no finite log-probability",
                    "finite numbers",
                    "Remove the pair, or train in fp32.",
                )
            said[split][source] = values.tolist()
    seconds = time.monotonic() - started
    log.info(
        "the reference says its part of %d pairs: %.1f s",
        sum(len(found) for parts in said.values() for found in parts.values()),
        seconds,
    )
    return said


def _made_of(
    context: StageContext, stage: PreferenceStage, splits: dict[str, Any]
) -> dict[str, Any]:
    """Name all that the reference follows from: weights by digest, tokens of the pairs."""
    root = context.run.stage(context.first)
    files = read_json(root.pretrained) or {}
    quantization = None if stage.lora is None else stage.lora.quantization
    return {
        "base": read_json(context.folder.built_on) or {},
        "files": {
            name: entry["sha256"] if isinstance(entry, dict) else entry
            for name, entry in files.items()
        },
        "quantization": None if quantization is None else quantization.model_dump(mode="json"),
        # The base has rows for them, over which probabilities are shared out too.
        **({"add_tokens": list(stage.data.add_tokens)} if stage.data.add_tokens else {}),
        "pairs": {
            split: {source: pairs.tokens.digest() for source, pairs in _pairs(samples).items()}
            for split, samples in splits.items()
        },
    }


def _read(context: StageContext, made_of: dict[str, Any]) -> Said | None:
    """Return what is kept, if it is of this base and these pairs."""
    path = context.folder.reference
    try:
        kept = read_json(path)
    except ValueError:
        log.warning("%s is damaged, and computed again", path)
        return None
    if kept is None:
        return None
    if kept.get("made_of") == made_of:
        said: Said = kept["said"]
        return said
    if committed(context.folder.checkpoints):
        changed = [name for name, value in made_of.items() if kept["made_of"].get(name) != value]
        raise DataError(
            str(path),
            f"what another model said, or of other pairs ({', '.join(changed)} changed)",
            "the reference that the stage has trained with so far",
            "Put base and data back, or start a new run (name=...).",
        )
    return None
