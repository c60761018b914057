"""Choose the engine that encodes: a fast one only after it gave the reference's ids, here."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile

import numpy as np

from distrain.config.data import EngineName
from distrain.data.tokenizer.encoders import ENCODERS, REFERENCE
from distrain.data.tokenizer.encoders.adversarial import adversarial_texts
from distrain.data.tokenizer.encoders.encoder import SETTING, USE_REFERENCE, Encoded, Encoder, Ids
from distrain.data.tokenizer.encoders.report import EngineReport, Refusal
from distrain.errors import DataError

SAMPLE_CHARACTERS = 2_000_000
"""Text of the corpus that engines are compared on, at most: about a second of the reference."""

logger = logging.getLogger(__name__)


def choose_encoder(
    tokenizer_json: str, wanted: EngineName, sample_texts: Iterable[str], *, threads: int = 1
) -> tuple[Encoder, EngineReport]:
    """Load the engine that is to encode a corpus.

    Args:
        tokenizer_json: The content of the file, as ``Tokenizer.content`` holds it.
        wanted: ``auto``: the first of ``ENCODERS`` that gives the reference's ids.
        sample_texts: Documents of the corpus; read up to ``SAMPLE_CHARACTERS``.
        threads: Of the engine; one process a core with one thread each is the usual way.

    Raises:
        DataError: The engine asked for is not installed, cannot load this tokenizer, or gives
            other ids than the reference.
    """
    reference = ENCODERS[REFERENCE](tokenizer_json, threads=threads)
    report = EngineReport(REFERENCE, reference.version, reference.version)
    if wanted == REFERENCE:
        return reference, report
    expected: _Expected | None = None
    refused: list[Refusal] = []
    for name in [name for name in ENCODERS if name != REFERENCE and wanted in ("auto", name)]:
        try:
            candidate = load_engine(name, tokenizer_json, threads=threads)
            # Once, and only if some engine could be loaded: it takes the reference about a second.
            expected = expected or _Expected.of(reference, tokenizer_json, sample_texts)
            expected.check(candidate)
        except DataError as error:
            # Who names an engine wants that one, or to hear why not.
            if wanted != "auto":
                raise
            logger.info("engine %s is not used: found %s", name, error.found)
            refused.append(Refusal(name, error.found))
        else:
            logger.info("encoding by %s %s, ids checked", name, candidate.version)
            return candidate, replace(
                report,
                engine=name,
                version=candidate.version,
                sample_texts=expected.sample_texts,
                sample_tokens=expected.sample_tokens,
                adversarial_texts=len(expected.texts) - expected.sample_texts,
                refused=tuple(refused),
            )
    logger.info("encoding by %s %s, the reference", REFERENCE, reference.version)
    return reference, replace(report, refused=tuple(refused))


def open_encoder(report: EngineReport, tokenizer_json: str, *, threads: int = 1) -> Encoder:
    """Load an engine that was chosen elsewhere: in another process, or on another node.

    Raises:
        DataError: It is not installed here, or in a version that was not checked.
    """
    encoder = load_engine(report.engine, tokenizer_json, threads=threads)
    # Equal ids were seen with one version: another one may split a word in another place.
    if encoder.version != report.version:
        raise DataError(
            SETTING,
            f"{encoder.name} {encoder.version} on this machine",
            f"version {report.version}, whose ids were checked",
            "Install the same version on all nodes.",
        )
    return encoder


def load_engine(name: str, tokenizer_json: str, *, threads: int = 1) -> Encoder:
    """Load a tokenizer into one engine, unchecked.

    Raises:
        DataError: The engine is not installed, or cannot load this tokenizer.
    """
    try:
        return ENCODERS[name](tokenizer_json, threads=threads)
    except ImportError as error:
        raise DataError(
            SETTING,
            f"no package {name} ({error})",
            "an installed engine",
            "Install it with `pip install 'distrain[fast]'`, or set tokenizer.engine to auto.",
        ) from None


@dataclass(frozen=True)
class _Expected:
    """The reference's ids of the texts that engines are compared on; the corpus's come first."""

    texts: Sequence[str]
    encoded: Encoded
    sample_texts: int

    @classmethod
    def of(
        cls, reference: Encoder, tokenizer_json: str, sample_texts: Iterable[str]
    ) -> "_Expected":
        sample = _up_to(sample_texts, SAMPLE_CHARACTERS)
        texts = [*sample, *adversarial_texts(tokenizer_json)]
        return cls(texts, reference.encode(texts), len(sample))

    @property
    def sample_tokens(self) -> int:
        return int(self.encoded.ends[self.sample_texts - 1]) if self.sample_texts else 0

    def check(self, candidate: Encoder) -> None:
        """Raise a DataError that shows the first text with other ids."""
        if self.sample_texts == 0:
            # Adversarial strings alone would not show how it does on the script of this corpus.
            raise _refused(candidate, "no text of the corpus to compare it on")
        found = candidate.encode(self.texts)
        # Shapes first: the comparison below cuts one array by the other.
        if len(found.ends) != len(self.texts):
            raise _refused(candidate, f"{len(found.ends)} results for {len(self.texts)} texts")
        if len(found.ids) != found.ends[-1]:
            raise _refused(candidate, f"{len(found.ids)} ids for texts of {found.ends[-1]}")
        if not (
            np.array_equal(found.ends, self.encoded.ends)
            and np.array_equal(found.ids, self.encoded.ids)
        ):
            raise _refused(candidate, self._first_difference(found))

    def _first_difference(self, found: Encoded) -> str:
        by_text = zip(self.texts, ids_by_text(self.encoded), ids_by_text(found), strict=True)
        text, wanted, got = next(row for row in by_text if not np.array_equal(row[1], row[2]))
        pairs = zip(wanted, got, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return (
            f"other ids for {_shown(text)}: from id {same} on {got[same : same + 4].tolist()} "
            f"instead of {wanted[same : same + 4].tolist()}"
        )


def ids_by_text(encoded: Encoded) -> list[Ids]:
    """Return each text's ids, as views."""
    starts = [0, *encoded.ends.tolist()]
    return [encoded.ids[start:end] for start, end in pairwise(starts)]


def _refused(candidate: Encoder, reason: str) -> DataError:
    return DataError(
        SETTING,
        f"{reason} ({candidate.name} {candidate.version})",
        "the ids of tokenizers, on a sample of the corpus and on adversarial strings",
        USE_REFERENCE,
    )


def _up_to(texts: Iterable[str], characters: int) -> list[str]:
    """Take texts until there are so many characters; the last one may be cut."""
    taken: list[str] = []
    for text in texts:
        taken.append(text[:characters])
        characters -= len(text)
        if characters <= 0:
            break
    return taken


def _shown(text: str) -> str:
    return f"{text[:30]!a}" + ("..." if len(text) > 30 else "")
