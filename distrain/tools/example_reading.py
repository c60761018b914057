"""A stage of fine-tuning as it reads its examples."""

import difflib
from collections.abc import Mapping
from functools import cached_property

from distrain.data.samples.examples import ExampleStream
from distrain.data.samples.seen_examples import ExampleLedger
from distrain.data.shards.document_names import NUMBER_SIGN, SHOWN_NAMES
from distrain.errors import NotFoundError
from distrain.stages.sft_samples import ExampleSamples
from distrain.tools.examples import read_stage
from distrain.tools.stage_reading import StageReading

NEAR_COMPARED = 2_000
"""Looked at for one like a name that there is not: examples of one file differ in little else."""


class ExampleReading(StageReading):
    """A stage of kind sft or preference as it reads its data; see ``StageReading``."""

    @cached_property
    def splits(self) -> dict[str, ExampleSamples]:
        """The examples to train and to validate with, encoded again as the stage has them."""
        return read_stage(self.run, self.stage)[0]

    @cached_property
    def sources(self) -> Mapping[str, ExampleStream]:
        """The train examples of each source, in the order in which they are read."""
        return self.splits["train"].streams()

    @cached_property
    def ledger(self) -> ExampleLedger:
        """The ledger of the feed's rows."""
        return ExampleLedger(self.feed.plan, self.sources)

    def path_of(self, source: str, example: int) -> str:
        """Return where an example was read."""
        return self.splits["train"].fitted[source][example].path

    def find(self, wanted: str) -> list[tuple[str, int]]:
        """Return source and number of each train example that ``wanted`` names.

        A chat of which turns are trained apart is several.

        Args:
            wanted: Where it was read, or the end of that; ``SOURCE:#NUMBER``, or ``#NUMBER`` of
                the only source.

        Raises:
            NotFoundError: There is none; says where it is instead, if it is anywhere.
        """
        before, colon, after = wanted.partition(":")
        # Places hold colons too: see ``find_documents``.
        of_source = colon and before in self.sources
        names = [before] if of_source else list(self.sources)
        name = after if of_source else wanted
        exact, ending = [], []
        for source in names:
            for number, each in enumerate(self.splits["train"].fitted[source]):
                if each.path == name:
                    exact.append((source, number))
                elif each.path.endswith(f"/{name}"):
                    ending.append((source, number))
        if exact or ending:
            return exact or ending
        digits = name.removeprefix(NUMBER_SIGN)
        if name.startswith(NUMBER_SIGN) and digits.isdecimal() and len(names) == 1:
            count = len(self.splits["train"].fitted[names[0]])
            if int(digits) < count:
                return [(names[0], int(digits))]
            raise self._not_found(wanted, f"a train split of {count} examples", "a lower number")
        found = self._instead(name) or f"none of that name in the train split of {', '.join(names)}"
        raise self._not_found(wanted, found, self._expected(names, name))

    def _instead(self, name: str) -> str | None:
        """Say what became of an example that is not trained on."""
        for split, samples in self.splits.items():
            for left in samples.left_out:
                if left.path == name:
                    why = left.detail or left.reason.replace("_", " ")
                    return f"it is left out of the {split} split: {why}"
        held_out = (each for found in self.splits["validation"].fitted.values() for each in found)
        if any(each.path == name for each in held_out):
            return "it is of the validation split, which no step trains on"
        return None

    def _expected(self, names: list[str], name: str) -> str:
        known = [each.path for source in names for each in self.splits["train"].fitted[source]]
        near = difflib.get_close_matches(name, dict.fromkeys(known[:NEAR_COMPARED]), SHOWN_NAMES)
        return f"where an example was read, such as {', '.join(near or known[:1])}"

    def _not_found(self, wanted: str, found: str, expected: str) -> NotFoundError:
        return NotFoundError(
            f"example {wanted}",
            found,
            expected,
            f"`distrain data sample RUN --stage {self.stage}` shows where examples were read.",
        )
