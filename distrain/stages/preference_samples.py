"""The pairs of answers of one split of a preference stage, as far as they fit into rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distrain.config.chats import Truncation
from distrain.data.chats.encoder import ChatEncoder, Refused
from distrain.data.chats.example import EncodedExample, Example
from distrain.data.samples.examples import ExampleDataset
from distrain.data.samples.pairs import EncodedPair, PairDataset, fit_pair
from distrain.stages.sft_samples import ExampleSamples, Taken


def encode_preferences(
    encoder: ChatEncoder, examples: Sequence[Example]
) -> list[EncodedPair | Refused]:
    """Encode both answers of each example; a pair of which one is refused is refused."""
    answers = [answer for example in examples for answer in example.answers]
    encoded = encoder.encode(answers)
    if len(encoded) != len(answers):  # one gave several, and nobody knows which
        apart = [encoder.encode([answer]) for answer in answers]
        encoded = [found[0] if len(found) == 1 else _several(found) for found in apart]
    pairs: list[EncodedPair | Refused] = []
    for chosen, rejected in zip(encoded[::2], encoded[1::2], strict=True):
        if isinstance(chosen, Refused):
            pairs.append(chosen)
        elif isinstance(rejected, Refused):
            pairs.append(rejected)
        elif _trained(chosen) == _trained(rejected):
            pairs.append(Refused(chosen.path, "equal", "its answers are equal as tokens"))
        else:
            pairs.append(EncodedPair(chosen, rejected))
    return pairs


def _several(found: Sequence[EncodedExample | Refused]) -> Refused:
    detail = "the template lays its turns out anew as the chat goes on: no single text to compare"
    return Refused(found[0].path, "several_texts", detail)


def _trained(example: EncodedExample) -> list[int]:
    ids: list[int] = example.ids[example.is_trained].tolist()
    return ids


@dataclass(frozen=True)
class PairSamples(ExampleSamples):
    """As ``ExampleSamples``; chosen and rejected answers take turns in the lists of a source."""

    answers = 2

    @classmethod
    def _fit(cls, encoded: Any, room: int, truncation: Truncation) -> Taken:  # noqa: ANN401
        made = fit_pair(encoded, room, truncation)
        kept = [] if made.pair is None else [made.pair.chosen, made.pair.rejected]
        return Taken([encoded.chosen, encoded.rejected], kept, made.effect, made.needed)

    def __len__(self) -> int:
        """Count the pairs that are used."""
        return super().__len__() // self.answers

    @cached_property
    def pairs(self) -> Mapping[str, PairDataset]:
        """The samples by source, always the same: what the reference says is kept with them."""
        made = {}
        for name, found in self.fitted.items():
            if found:
                pairs = [EncodedPair(*both) for both in zip(found[::2], found[1::2], strict=True)]
                made[name] = PairDataset(pairs, self.form.sequence_length, pad_id=self.form.pad_id)
        return made

    def datasets(self) -> dict[str, ExampleDataset]:
        """Return ``pairs`` under the name that all samples have."""
        return dict(self.pairs)
