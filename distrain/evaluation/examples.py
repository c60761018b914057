"""Sums of single examples: what a comparison between models rests on."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from distrain.data.samples.examples import ExampleDataset
from distrain.data.samples.loader import evaluation_microbatches, evaluation_shares
from distrain.data.samples.order import Ints
from distrain.evaluation.bootstrap import ExampleSums
from distrain.evaluation.measuring import Measure
from distrain.fault.page import mark
from distrain.parallel.ranks import Ranks


@torch.no_grad()
def sum_examples(
    module: nn.Module,
    measured: Measure,
    dataset: ExampleDataset,
    chosen: Ints,
    *,
    micro_batch_size: int,
    ranks: Ranks | None = None,
) -> ExampleSums:
    """Measure the trained metric of each example by itself. Collective, if there are ``ranks``.

    Args:
        module: What the forward pass calls; not in training.
        measured: Of its task the trained metric, on its device.
        dataset: One example a row: a row is what a task measures apart from others.
        chosen: Numbers of examples, shape (examples,).
        micro_batch_size: Examples of one forward pass.
        ranks: That share the examples; ``None``: this process measures all of them.

    Returns:
        In the order of ``chosen``, the same on every rank and for any number of them: which
        examples share a forward pass depends on the examples alone.
    """
    # Examples of one length side by side: little of a row is padding then.
    order = np.argsort(dataset.tokens.num_inputs()[chosen], kind="stable")
    cut = {
        "micro_batch_size": micro_batch_size,
        "dp_rank": 0 if ranks is None else ranks.dp_rank,
        "dp_size": 1 if ranks is None else ranks.dp_size,
    }
    task, device = measured.task, measured.device
    microbatches = evaluation_microbatches(dataset, indices=chosen[order], **cut)
    counts = np.zeros(len(chosen))
    places, found = [np.empty(0, np.int64)], [torch.empty(0, dtype=torch.float64, device=device)]
    shares = evaluation_shares(len(chosen), **cut)
    for share, microbatch in zip(shares, microbatches, strict=True):
        mark()
        apart = replace(microbatch, row_groups=(1,) * len(microbatch.input_ids))
        losses = task.measure(module, apart.to(device)).trained
        if share:  # else it runs for the others' sake only
            own = order[share.start : share.stop]
            counts[own] = task.denominators(apart)
            places.append(own)
            found.append(losses.double())
    sums = np.zeros(len(chosen))
    sums[np.concatenate(places)] = torch.cat(found).cpu().numpy()  # the one wait for the device
    if ranks is not None:
        # Each example was measured by one rank, and is 0 on the others: no bit is rounded.
        sums = np.array(ranks.sum(*sums.tolist(), of="positions"))
        counts = np.array(ranks.sum(*counts.tolist()))
    return ExampleSums(sums, counts)
