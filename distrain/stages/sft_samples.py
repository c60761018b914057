"""The examples of one split of an sft stage, as far as they fit into rows, and the rest by name."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from distrain.config.chats import Truncation
from distrain.data.chats.encoder import Refused
from distrain.data.chats.example import EncodedExample
from distrain.data.samples.examples import ExampleDataset, ExampleStream, example_dataset
from distrain.data.samples.fitting import Effect, fit
from distrain.data.samples.order import Ints, Order
from distrain.data.samples.sft import shuffle_prompts


@dataclass(frozen=True)
class RowForm:
    """How examples become rows.

    Args:
        sequence_length: T, inputs of a row.
        pad_id: Fills rows up.
        packing: ``none`` or ``best_fit``.
        truncation: Of what is longer than a row.
        seed: Of the order.
        needed_only: See ``ExampleDataset``.
        stop_ids: Of tokens that end what is trained on.
    """

    sequence_length: int
    pad_id: int
    packing: str
    truncation: Truncation
    seed: int
    needed_only: bool = True
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An example that is not used.

    Args:
        source: That it is of.
        path: Of the example.
        reason: In a word.
        detail: What is wrong with it, if the template refused it.
        example: Its tokens, if it has any.
        needed: Of these, as many as a row would have to take.
    """

    source: str
    path: str
    reason: str
    detail: str = ""
    example: EncodedExample | None = None
    needed: int | None = None


class Taken(NamedTuple):
    """What rows take of one example, or of a pair of answers.

    Args:
        whole: As encoded.
        fitted: The same, as a row takes them; empty: they are left out.
        effect: What was done to them.
        needed: See ``fitting.Fitted``.
    """

    whole: list[EncodedExample]
    fitted: list[EncodedExample]
    effect: Effect | None
    needed: int


@dataclass(frozen=True)
class Lengths:
    """How the examples of a split fit into rows.

    Args:
        examples: How many there are.
        long_answers: Those of which even what is trained on does not fit.
        longest: Inputs of the longest of these, whole: the sequence length that it needs.
        effects: How many there are of each effect of ``fitting``, and of each reason to refuse one.
    """

    examples: int
    long_answers: int
    longest: int
    effects: Mapping[str, int]


@dataclass(frozen=True)
class ExampleSamples:
    """The examples of one split that are used, ready to be laid out.

    Args:
        whole: As they were encoded, by source.
        fitted: The same, as a row takes them.
        lengths: Of all examples of the split.
        left_out: Those that are not used.
        form: Of the rows.
    """

    answers: ClassVar[int] = 1
    """Of an example, one after the other in the lists."""
    whole: Mapping[str, list[EncodedExample]]
    fitted: Mapping[str, list[EncodedExample]]
    lengths: Lengths
    left_out: list[LeftOut]
    form: RowForm

    @classmethod
    def of(
        cls,
        examples: Mapping[str, Sequence[Any]],
        form: RowForm,
        refused: Mapping[str, Sequence[Refused]] | None = None,
    ) -> Self:
        """Fit the examples of all sources; those that the encoder refused are noted."""
        whole: dict[str, list[EncodedExample]] = {source: [] for source in examples}
        fitted: dict[str, list[EncodedExample]] = {source: [] for source in examples}
        left_out = [
            LeftOut(source, each.path, each.reason, each.detail)
            for source, found in (refused or {}).items()
            for each in found
        ]
        effects = Counter(left.reason for left in left_out)
        long_answers, longest, room = 0, 0, form.sequence_length + 1
        for source, found in examples.items():
            for example in found:
                made = cls._fit(example, room, form.truncation)
                longest = max(longest, made.needed)
                long_answers += made.needed > room
                effects.update([made.effect] if made.effect is not None else [])
                if made.fitted:
                    whole[source] += made.whole
                    fitted[source] += made.fitted
                elif made.effect is not None:
                    left_out.append(
                        LeftOut(source, example.path, made.effect, "", made.whole[0], made.needed)
                    )
        count = sum(map(len, examples.values())) + sum(map(len, (refused or {}).values()))
        lengths = Lengths(count, long_answers, longest - 1, effects)
        return cls(whole, fitted, lengths, left_out, form)

    @classmethod
    def _fit(cls, encoded: Any, room: int, truncation: Truncation) -> "Taken":  # noqa: ANN401
        """Fit what one example became."""
        made = fit(encoded, room, truncation)
        kept = [] if made.example is None else [made.example]
        return Taken([encoded], kept, made.effect, made.needed)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle examples as a few long arrays: a million short ones take a minute to load."""
        packed = (
            {name: PackedExamples.of(each) for name, each in found.items()}
            for found in (self.whole, self.fitted)
        )
        return _unpacked, (type(self), *packed, self.lengths, self.left_out, self.form)

    def __len__(self) -> int:
        """Count the examples that are used."""
        return sum(map(len, self.fitted.values()))

    def figures(self) -> dict[str, float]:
        """Say how full rows are and how much of them is trained on; shares from 0 to 1."""
        datasets = list(self.datasets().values())
        samples = sum(map(len, datasets))
        inputs = sum(int(dataset.tokens.num_inputs().sum()) for dataset in datasets)
        targets = sum(int(dataset.tokens.num_targets().sum()) for dataset in datasets)
        return {
            "examples": len(self),
            "samples": samples,
            "padding": round(1 - inputs / (samples * datasets[0].sequence_length), 4),
            "trained": round(targets / inputs, 4),
            "stop_tokens": sum(
                dataset.tokens.num_trained_of(self.form.stop_ids) for dataset in datasets
            ),
            "targets_per_sample": round(targets / samples, 2),
        }

    def datasets(self) -> dict[str, ExampleDataset]:
        """Lay out each example as it is, by source; a source without an example is left out."""
        return {name: _lay_out(found, self.form) for name, found in self.fitted.items() if found}

    def streams(self) -> dict[str, ExampleStream]:
        """Put the samples of each source in the order in which a run reads them."""
        return {
            name: ExampleStream(dataset, Order(self.form.seed, name, len(dataset)))
            for name, dataset in self.datasets().items()
        }

    def apart(self) -> tuple[ExampleDataset, ExampleDataset]:
        """Lay out the examples of all sources one a row: as they are, and with other prompts.

        Both number them alike: one source after the other.
        """
        form = replace(self.form, packing="none")
        own = [example for found in self.fitted.values() for example in found]
        return _lay_out(own, form), _lay_out(self._with_other_prompts(), form)

    def numbers_of(self, chosen: Mapping[str, Ints]) -> Ints:
        """Return the numbers, in ``apart``, of the examples of some samples of each source."""
        numbers, first = [np.empty(0, np.int64)], 0
        for name, dataset in self.datasets().items():
            numbers += [first + dataset.members(index) for index in chosen[name].tolist()]
            first += len(dataset.tokens)
        return np.concatenate(numbers)

    def _with_other_prompts(self) -> list[EncodedExample]:
        """Put each answer after another example's prompt, of whichever source."""
        together = [example for found in self.whole.values() for example in found]
        # Another's context may be longer than one's own; what is measured must not get fewer.
        return [
            fit(example, self.form.sequence_length + 1, "cut").kept
            for example in shuffle_prompts(together, self.form.seed)
        ]


class PackedExamples(NamedTuple):
    """Examples end to end, as they travel between ranks; arrays of shape (tokens,), (examples,)."""

    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    may_go: NDArray[np.bool_]
    ends: Ints
    paths: list[str]

    @classmethod
    def of(cls, examples: Sequence[EncodedExample]) -> Self:
        """Copy examples, in their order."""
        return cls(
            np.concatenate([np.empty(0, np.int32), *(each.ids for each in examples)]),
            np.concatenate([np.empty(0, np.bool_), *(each.is_trained for each in examples)]),
            np.concatenate([np.empty(0, np.bool_), *(each.may_go for each in examples)]),
            np.cumsum([len(each.ids) for each in examples], dtype=np.int64),
            [each.path for each in examples],
        )

    def examples(self) -> list[EncodedExample]:
        """Return them; their arrays are parts of these."""
        stops = self.ends.tolist()
        return [
            EncodedExample(
                path, self.ids[start:stop], self.is_trained[start:stop], self.may_go[start:stop]
            )
            for path, start, stop in zip(self.paths, [0, *stops], stops, strict=False)
        ]


def _unpacked(
    kind: type[ExampleSamples],
    whole: Mapping[str, PackedExamples],
    fitted: Mapping[str, PackedExamples],
    lengths: Lengths,
    left_out: list[LeftOut],
    form: RowForm,
) -> ExampleSamples:
    lists = [{name: each.examples() for name, each in found.items()} for found in (whole, fitted)]
    return kind(lists[0], lists[1], lengths, left_out, form)


def _lay_out(examples: Sequence[EncodedExample], form: RowForm) -> ExampleDataset:
    dataset = example_dataset(
        examples, form.sequence_length, pad_id=form.pad_id, packing=form.packing
    )
    dataset.needed_only = form.needed_only
    return dataset
