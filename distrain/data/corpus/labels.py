"""Problems of labelled data: labels that are missing, contradict one another, or hardly occur.

Documents carry a class; instruction pairs carry an answer. Either is counted first, in one pass,
and then held against the limits of the recipe.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from distrain.config.labels import LabelsConfig, PairChecksConfig
from distrain.data.curate.normalize import normalize
from distrain.errors import DataError

SHOWN = 5
"""Examples kept of each kind of problem."""

SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Labelled:
    """One document of a labelled source.

    Args:
        digest: Of the normalized text: equal texts should have equal labels.
    """

    path: str
    digest: bytes
    label: str | None


class PromptAndAnswer(Protocol):
    """The fields that are read of a ``pairs_file.Pair``."""

    @property
    def prompt(self) -> str: ...  # noqa: D102

    @property
    def answer(self) -> str: ...  # noqa: D102

    @property
    def path(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Conflict:
    """The same text, or prompt, with two labels, or answers.

    Args:
        paths: Where the first one was met, and the first that differs from it.
        values: What they have.
    """

    paths: tuple[str, str]
    values: tuple[str, str]

    def __str__(self) -> str:
        (first, second), (one, other) = self.paths, map(_shown, self.values)
        return f"{first} has {one}, {second} has {other}"


@dataclass
class LabelReport:
    """Labels of a source.

    Args:
        missing: Documents without a label, or with a blank one.
        labels: Label -> documents, the most frequent first.
        conflicting: Documents whose text occurs with more than one label.
        conflicts: The first few of them.
        missing_paths: The first few without a label.
    """

    documents: int = 0
    missing: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    conflicting: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    missing_paths: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> int:
        """Documents with a label."""
        return self.documents - self.missing

    def check(self, config: LabelsConfig, where: str) -> None:
        """Hold the counts against limits.

        Args:
            config: The limits.
            where: Dotted path of ``config``.

        Raises:
            DataError: One of them is passed.
        """
        _limit(
            f"{where}.max_missing_fraction",
            config.max_missing_fraction,
            _Part(self.missing, self.documents, "documents without a label"),
            self.missing_paths,
            "Give each document a label, correct label_field, or leave these documents out.",
        )
        _limit(
            f"{where}.max_conflict_fraction",
            config.max_conflict_fraction,
            _Part(self.conflicting, self.labelled, "labelled documents whose text has two labels"),
            [str(conflict) for conflict in self.conflicts],
            "Decide for one label for each of these texts.",
        )
        self._check_balance(config, where)

    def _check_balance(self, config: LabelsConfig, where: str) -> None:
        if not self.labels:
            return
        most, least = max(self.labels, key=self._count), min(self.labels, key=self._count)
        _limit(
            f"{where}.max_label_fraction",
            config.max_label_fraction,
            _Part(self.labels[most], self.labelled, f"documents with the label {_shown(most)}"),
            [],
            "Leave out some of them, or add documents with other labels.",
        )
        # Only labels that occur can be too rare: which ones there should be, nobody has said.
        low, count = config.min_label_fraction, self.labels[least]
        if low is not None and count < low * self.labelled:
            raise DataError(
                f"{where}.min_label_fraction",
                f"{count} of {self.labelled} documents with the label {_shown(least)}",
                f"at least {low:.2%} with each of the {len(self.labels)} labels",
                f"Add documents with that label, leave it out, or lower {where}"
                ".min_label_fraction.",
            )

    def _count(self, label: str) -> int:
        return self.labels[label]


def inspect_labels(documents: Iterable[Labelled]) -> LabelReport:
    """Count the labels; keeps a few hundred bytes of memory a different text."""
    report = LabelReport()
    labels: Counter[str] = Counter()
    values = _Values()
    for document in documents:
        report.documents += 1
        # A label of spaces is a cell left blank in some table, not a class.
        label = (document.label or "").strip()
        if not label:
            report.missing += 1
            if len(report.missing_paths) < SHOWN:
                report.missing_paths.append(document.path)
            continue
        labels[label] += 1
        values.add(document.digest, label, document.path)
    # Equal counts by name: the record must not depend on the order of the documents.
    report.labels = dict(sorted(labels.items(), key=lambda item: (-item[1], item[0])))
    report.conflicting, report.conflicts = values.conflicting, values.conflicts
    return report


@dataclass
class PairReport:
    """Instruction pairs.

    Args:
        empty: Pairs with a blank prompt or a blank answer.
        repeated: Pairs that an earlier one equals in prompt and answer.
        conflicting: Pairs whose prompt occurs with more than one answer.
        conflicts: The first few of them.
        empty_paths: The first few that are empty.
    """

    pairs: int = 0
    empty: int = 0
    repeated: int = 0
    conflicting: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    empty_paths: list[str] = field(default_factory=list)

    def check(self, config: PairChecksConfig, where: str) -> None:
        """Hold the counts against limits.

        Args:
            config: The limits.
            where: Dotted path of ``config``.

        Raises:
            DataError: One of them is passed.
        """
        _limit(
            f"{where}.max_empty_fraction",
            config.max_empty_fraction,
            _Part(self.empty, self.pairs, "pairs with a blank prompt or answer"),
            self.empty_paths,
            "Fill them in, or leave these pairs out.",
        )
        _limit(
            f"{where}.max_conflict_fraction",
            config.max_conflict_fraction,
            _Part(self.conflicting, self.pairs, "pairs whose prompt has several answers"),
            [str(conflict) for conflict in self.conflicts],
            "Decide for one answer for each of these prompts.",
        )


def inspect_pairs(pairs: Iterable[PromptAndAnswer]) -> PairReport:
    """Compare pairs after normalization; keeps a few hundred bytes of memory a different prompt."""
    report = PairReport()
    seen: set[bytes] = set()
    values = _Values()
    for pair in pairs:
        report.pairs += 1
        # Compared as a model would read them: another Unicode form is no other answer.
        prompt, answer = normalize(pair.prompt).strip(), normalize(pair.answer).strip()
        if not prompt or not answer:
            report.empty += 1
            if len(report.empty_paths) < SHOWN:
                report.empty_paths.append(pair.path)
            continue
        key = _digest(prompt)
        both = key + _digest(answer)
        report.repeated += both in seen
        seen.add(both)
        values.add(key, answer, pair.path)
    report.conflicting, report.conflicts = values.conflicting, values.conflicts
    return report


class _Values:
    """The first value of each key, and the number of entries whose key has several values."""

    def __init__(self) -> None:
        self.conflicting = 0
        self.conflicts: list[Conflict] = []
        self._first: dict[bytes, tuple[bytes, str, str]] = {}
        self._agreeing: Counter[bytes] = Counter()
        self._torn: set[bytes] = set()

    def add(self, key: bytes, value: str, path: str) -> None:
        # Digests instead of values: answers may be long, and all first ones are kept to the end.
        digest = _digest(value)
        # One character more than is shown, by which ``_shown`` sees that it has to cut.
        first, shown, first_path = self._first.setdefault(
            key, (digest, value[: SHOWN_CHARACTERS + 1], path)
        )
        if key in self._torn:
            self.conflicting += 1
        elif first == digest:
            self._agreeing[key] += 1
        else:
            self._torn.add(key)
            # Nobody knows which value is right, so those that agreed with the first count as well.
            self.conflicting += 1 + self._agreeing[key]
            if len(self.conflicts) < SHOWN:
                self.conflicts.append(Conflict((first_path, path), (shown, value)))


@dataclass(frozen=True)
class _Part:
    count: int
    total: int
    what: str


def _limit(where: str, limit: float | None, part: _Part, examples: list[str], remedy: str) -> None:
    if limit is None or part.count <= limit * part.total:
        return
    shown = f", the first: {'; '.join(examples)}" if examples else ""
    setting = where.rpartition(".")[2]
    raise DataError(
        where,
        f"{part.count} of {part.total} {part.what}{shown}",
        f"at most {limit:.2%} of them" if limit else "none",
        f"{remedy[:-1]}, or raise {setting}.",
    )


def _digest(text: str) -> bytes:
    # JSON may escape half of a surrogate pair, which is a problem for others to report.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _shown(value: str) -> str:
    cut = value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "..."
    return repr(cut)
