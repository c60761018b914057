"""The ``evaluate`` stage: the test split, used once, in one process.

Documents are measured with the model of the last stage that trained every parameter; answers, after
fine-tuning, with and without the adapters of the last stage.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distrain.config.recipe import EvaluateStage, PrepareStage, PretrainStage
from distrain.config.tasks import IGNORE_INDEX
from distrain.data.opened.form import PreparedData
from distrain.data.samples.datasets import Dataset, JoinedDataset, PretrainDataset
from distrain.data.samples.loader import Microbatch, evaluation_microbatches
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.evaluation import test_set
from distrain.finetune.lora import merge
from distrain.models import build_model
from distrain.models.causal_lm import CausalLM
from distrain.parallel.device import resolve_device
from distrain.runs.records import read_json, write_json
from distrain.stages.base_model import to_float32
from distrain.stages.context import Outcome, StageContext, typed
from distrain.stages.export import read_trained
from distrain.stages.pretrain_data import open_held_out
from distrain.stages.sft_data import PairSamples, find_test_pairs
from distrain.tasks.task import forward_targets


def run_stage(context: StageContext) -> Outcome:
    """Measure the test split and use it up.

    The figures are on disk before the use is: killed in between, the stage measures again, and
    killed after it, it needs no second look.
    """
    figures = read_json(context.folder.result)
    if figures is not None and not context.again and test_set.is_used(context.run, context.name):
        return Outcome(figures)
    test_set.claim(context.run, context.name, again=context.again)
    trained, whole = read_trained(context)
    tokenizer = Tokenizer.load(whole.tokenizer)
    with torch.device("meta"):
        model = build_model(trained.model, trained.vocab_size)
    meter = Meter(model, typed(context.recipe, context.name, EvaluateStage).micro_batch_size)
    result: dict[str, Any] = {"measured": {}}
    if whole.checkpoint is not None:
        pretrained = replace(whole, adapters=())
        meter.load(to_float32(pretrained.read()) if whole.adapters[1:] else trained.base_state)
        result["documents"] = meter.documents(open_test_split(context), tokenizer)
        result["measured"]["documents"] = context.lineage.pretrained.trained[-1].stage
    if context.lineage.tuned is not None:
        assert trained.adapter_state is not None, "a fine-tuned line has adapters"
        assert trained.lora is not None, "and their settings"
        pairs = find_test_pairs(context, tokenizer)
        if pairs is not None:
            merged = merge(trained.base_state, trained.adapter_state, trained.lora)
            meter.load(trained.base_state)
            result["answers"] = meter.answers(pairs, merged)
            result["measured"]["answers"] = context.lineage.tuned
    write_json(context.folder.result, result)
    test_set.finish(context.run, context.name)
    return Outcome(result)


def open_test_split(context: StageContext) -> Dataset:
    """Open the test split of all sources that the last stage of documents was trained on.

    Raises:
        DataError: It is missing or damaged.
    """
    lineage = context.lineage.pretrained
    pretrain = typed(context.recipe, lineage.trained[-1].stage, PretrainStage)
    prepared = PreparedData(
        typed(context.recipe, lineage.data, PrepareStage).data,
        context.run.stage(str(lineage.data)),
        pretrain.data,
        stage_kind=context.stage.kind,
    )
    splits = [found.tokens for found in open_held_out(prepared, "test").values()]
    length = pretrain.training.sequence_length
    return JoinedDataset([PretrainDataset(split, length, keep_tail=True) for split in splits])


@dataclass(frozen=True)
class Summed:
    """Losses over a set of samples, in nats, and what they are to be divided by."""

    loss: float
    num_targets: int
    target_bytes: int


class Meter:
    """Measures samples with one model in this process.

    Args:
        model: On the meta device; gets its weights from ``load``.
        micro_batch_size: Samples of one forward pass.
    """

    def __init__(self, model: CausalLM, micro_batch_size: int) -> None:
        self.model = model
        self.micro_batch_size = micro_batch_size
        self.device = resolve_device("auto")

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take whole parameters; a tied output layer may be missing."""
        self.model.load_state_dict(state, strict=False, assign=True)
        self.model.tie_weights()
        self.model.to(self.device).eval()

    def documents(self, dataset: Dataset, tokenizer: Tokenizer) -> dict[str, float]:
        """Return loss, perplexity, bits per byte and the number of targets."""
        summed = self.measure(dataset, tokenizer.token_bytes())
        loss = summed.loss / summed.num_targets
        return {
            "loss": loss,
            "perplexity": math.exp(loss),
            # The bytes of the targets themselves: a document's first token is no target.
            "bits_per_byte": summed.loss / math.log(2) / summed.target_bytes,
            "targets": summed.num_targets,
        }

    def answers(self, pairs: PairSamples, merged: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the losses of answers as the model is, then with ``merged`` weights."""
        own, shuffled = pairs.dataset(), pairs.shuffled()
        summed = self.measure(own)
        figures = {
            "pairs": len(pairs),
            "long_answers": len(pairs.lengths.long_answers),
            "cut_prompts": pairs.lengths.cut_prompts,
            "targets": summed.num_targets,
            "loss_base": summed.loss / summed.num_targets,
            "loss_base_shuffled_prompts": self.loss(shuffled),
        }
        self.load(merged)
        return figures | {
            "loss": self.loss(own),
            "loss_shuffled_prompts": self.loss(shuffled),
        }

    def loss(self, dataset: Dataset) -> float:
        """Return the mean loss in nats per target token."""
        summed = self.measure(dataset)
        return summed.loss / summed.num_targets

    @torch.no_grad()
    def measure(self, dataset: Dataset, token_bytes: NDArray[np.int64] | None = None) -> Summed:
        """Sum over all samples, each once."""
        loss, num_targets, target_bytes = 0.0, 0, 0
        for microbatch in self._microbatches(dataset):
            loss += forward_targets(self.model, microbatch, microbatch.groups).item()
            num_targets += microbatch.num_targets
            if token_bytes is not None:
                targets = microbatch.target_ids[microbatch.target_ids != IGNORE_INDEX].cpu()
                target_bytes += int(token_bytes[targets.numpy()].sum())
        return Summed(loss, num_targets, target_bytes)

    def _microbatches(self, dataset: Dataset) -> Iterator[Microbatch]:
        for microbatch in evaluation_microbatches(dataset, micro_batch_size=self.micro_batch_size):
            yield microbatch.to(self.device)
