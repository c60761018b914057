"""Log-likelihoods of continuations: many of them in one row, each a document of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from distrain.config.tasks import IGNORE_INDEX
from distrain.fault.page import mark
from distrain.models.attention.layout import in_one_row
from distrain.parallel.ranks import Ranks

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class Continuation:
    """What is scored, and what it follows; neither is empty.

    Args:
        context: Loses its beginning where both together are too long.
        ids: The scored tokens.
    """

    context: Ids
    ids: Ids


@dataclass(frozen=True)
class Scorer:
    """Scores continuations with a model, on one rank or on several in step.

    Args:
        module: What the forward pass calls: a ``CausalLM``, or an engine's wrapping of one.
        device: Where inputs go.
        max_length: Positions of the model.
        batch_tokens: Of a forward pass, unless one text alone is longer.
        ranks: That score together, each its share; ``None``: this process alone.
    """

    module: nn.Module
    device: torch.device
    max_length: int
    batch_tokens: int
    ranks: Ranks | None = None

    @torch.no_grad()
    def score(self, asked: Sequence[Continuation]) -> list[tuple[float, bool]]:
        """Return log-likelihood in nats, and whether each token was the likeliest. Collective.

        The same on all ranks, and in the order of ``asked``.
        """
        size, rank = (1, 0) if self.ranks is None else (self.ranks.dp_size, self.ranks.dp_rank)
        batches = list(self._batches(asked))
        # As many passes on every rank, for a pass may be collective: the last one is made again.
        padded = batches + batches[-1:] * (-len(batches) % size)
        found = [0.0] * (2 * len(asked))
        was_training = self.module.training
        self.module.eval()
        for number in range(rank, len(padded), size):
            mark()
            numbers = padded[number]
            scores = self._forward([asked[each] for each in numbers])
            if number < len(batches):
                for each, (loss, hits) in zip(numbers, scores, strict=True):
                    found[2 * each : 2 * each + 2] = [-loss, hits]
        self.module.train(was_training)
        totals = found if self.ranks is None else self.ranks.sum(*found, of="positions")
        return [
            (totals[2 * number], totals[2 * number + 1] == len(each.ids))
            for number, each in enumerate(asked)
        ]

    def _batches(self, asked: Sequence[Continuation]) -> Iterator[list[int]]:
        """Put texts of like length together, the longest first: what fails for memory fails now."""
        lengths = [min(len(each.context) + len(each.ids), self.max_length + 1) for each in asked]
        batch: list[int] = []
        used = 0
        for number in sorted(range(len(asked)), key=lambda number: (-lengths[number], number)):
            if batch and used + lengths[number] > self.batch_tokens:
                yield batch
                batch, used = [], 0
            batch.append(number)
            used += lengths[number]
        if batch:
            yield batch

    def _forward(self, asked: Sequence[Continuation]) -> list[tuple[float, float]]:
        inputs: list[int] = []
        targets: list[int] = []
        lengths = []
        for each in asked:
            # The last token is no input: nothing that follows it is asked for.
            ids = [*each.context, *each.ids][-(self.max_length + 1) :]
            inputs += ids[:-1]
            targets += [IGNORE_INDEX] * (len(ids) - 1 - len(each.ids)) + list(each.ids)
            lengths.append(len(ids) - 1)
        target_ids = torch.tensor(targets).unsqueeze(0)
        places = (target_ids.flatten() != IGNORE_INDEX).nonzero().flatten()
        losses, hits = self.module(
            torch.tensor(inputs, device=self.device).unsqueeze(0),
            target_ids=target_ids.to(self.device),
            rows=[len(each.ids) for each in asked],
            places=places.to(self.device),
            documents=in_one_row(lengths, self.device),
            with_hits=True,
        )
        return list(zip(losses.tolist(), hits.tolist(), strict=True))
