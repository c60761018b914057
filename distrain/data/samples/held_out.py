"""Layer 3, held-out samples: which of them validation measures, and of which source each is.

The choice is a pure function of how many samples the sources have and how many are wanted: it is
the same for any number of ranks, and at every validation of a stage.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from distrain.data.samples.datasets import Dataset, JoinedDataset
from distrain.data.samples.loader import Microbatch, evaluation_microbatches, evaluation_shares
from distrain.data.samples.order import Ints
from distrain.errors import DataError


@dataclass(frozen=True)
class Choice:
    """How many samples of each source are measured; kept for the whole life of a stage.

    Args:
        counts: By source, in the order in which they are measured.
        spaced: Of a source that is measured in part: evenly spaced samples, or the first ones.
    """

    counts: Mapping[str, int]
    spaced: bool

    @classmethod
    def made(cls, sizes: Mapping[str, int], limit: int | None) -> Self:
        """Choose for a stage that begins: in the shares that the sources have of all samples.

        Args:
            sizes: Samples of each source.
            limit: How many to measure at most.
        """
        return cls(share_out(sizes, limit), spaced=len(sizes) > 1)

    @classmethod
    def of_older_version(cls, sizes: Mapping[str, int], limit: int | None) -> Self:
        """Choose as versions did that recorded no choice: the first samples, source by source."""
        counts, left = {}, sum(sizes.values()) if limit is None else limit
        for name, size in sizes.items():
            counts[name] = min(size, left)
            left -= counts[name]
        return cls(counts, spaced=False)

    def to_json(self) -> dict[str, Any]:
        """Form in a checkpoint and in ``data.json``."""
        return {"samples": dict(self.counts), "spaced": self.spaced}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""
        return cls(value["samples"], value["spaced"])

    def indices(self, name: str, size: int) -> Ints:
        """Return the numbers of the chosen samples of a source that has ``size``."""
        count = self.counts[name]
        steps = np.arange(count)
        return steps * size // count if self.spaced and count else steps


def share_out(sizes: Mapping[str, int], limit: int | None) -> dict[str, int]:
    """Share ``limit`` samples out by size (largest remainder); all of them where there are fewer.

    Of equal remainders the source that comes first is served first.
    """
    total = sum(sizes.values())
    if limit is None or limit >= total:
        return dict(sizes)
    # In integers throughout: the rounding of a float must not decide what is measured.
    counts = {name: limit * size // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: -(limit * sizes[name] % total))
    for name in by_remainder[: limit - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True)
class MeasuredPart:
    """One forward pass of a validation.

    Args:
        microbatch: Its groups of rows are those of ``rows``, where there are any.
        rows: Of each source in the microbatch, its rows: they lie side by side. Empty where a
            rank runs the pass for the others' sake only.
    """

    microbatch: Microbatch
    rows: Mapping[str, slice]


class HeldOut:
    """The held-out samples of all sources.

    Args:
        sources: Samples by source.
        limit: How many are measured at most.
        content: Digests of what a user may have changed between two starts, by source. Documents
            need none: the manifests that prepare wrote are checked.
    """

    def __init__(
        self,
        sources: Mapping[str, Dataset],
        limit: int | None,
        content: Mapping[str, str] | None = None,
    ) -> None:
        self._joined = JoinedDataset(list(sources.values()))
        self._sizes = {name: len(dataset) for name, dataset in sources.items()}
        self._limit = limit
        self.choice = Choice.made(self._sizes, limit)
        self._content = dict(content or {})

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; ``restore`` takes it."""
        return self.choice.to_json() | ({"content": self._content} if self._content else {})

    def restore(self, recorded: Mapping[str, Any] | None) -> None:
        """Measure what the stage has measured so far.

        Args:
            recorded: From its checkpoint; ``None`` in one of a version that recorded none.

        Raises:
            DataError: The examples are others: what is best so far was measured on those of before.
        """
        if recorded is None:
            self.choice = Choice.of_older_version(self._sizes, self._limit)
        else:
            before = recorded.get("content", self._content)  # older versions took no digest
            changed = [
                name
                for name in dict.fromkeys([*before, *self._content])
                if before.get(name) != self._content.get(name)
            ]
            if changed:
                raise DataError(
                    f"held-out examples of source '{changed[0]}'",
                    "other ones than the checkpoint's run has measured",
                    "the same, or its validations could not be compared",
                    "Restore what the stage's data section names, or start a new run.",
                )
            self.choice = Choice.from_json(recorded)

    def parts(self, *, micro_batch_size: int, dp_rank: int, dp_size: int) -> Iterator[MeasuredPart]:
        """Yield this rank's share of the chosen samples; as many parts on every rank.

        Raises:
            DataError: There is no sample.
        """
        indices, ends = self._chosen()
        cut = {"micro_batch_size": micro_batch_size, "dp_rank": dp_rank, "dp_size": dp_size}
        microbatches = evaluation_microbatches(self._joined, indices=indices, **cut)
        for share, microbatch in zip(
            evaluation_shares(len(indices), **cut), microbatches, strict=True
        ):
            rows, first = {}, 0
            for name, end in ends.items():
                low, high = max(first, share.start), min(end, share.stop)
                if low < high:
                    rows[name] = slice(low - share.start, high - share.start)
                first = end
            sizes = tuple(part.stop - part.start for part in rows.values())
            yield MeasuredPart(replace(microbatch, row_groups=sizes or None), rows)

    def _chosen(self) -> tuple[Ints, dict[str, int]]:
        """Return the chosen samples, numbered through all sources, and where each source ends."""
        chosen, ends, first, count = [], {}, 0, 0
        for name, size in self._sizes.items():
            own = self.choice.indices(name, size)
            chosen.append(first + own)
            first += size
            count += len(own)
            ends[name] = count
        return np.concatenate(chosen), ends
