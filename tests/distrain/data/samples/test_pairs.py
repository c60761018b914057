from itertools import pairwise

import numpy as np
import pytest

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.datasets import gather
from distrain.data.samples.loader import Microbatch
from distrain.data.samples.pairs import fit_pair
from tests.distrain.tasks.preferences import (
    SEQUENCE_LENGTH,
    dataset_of,
    made_pairs,
    microbatch_of,
    pair_of,
)


def documents_of(rows):
    """Ids and targets of each document that has a target."""
    flat, targets = rows.input_ids.reshape(-1), rows.target_ids.reshape(-1)
    ends = rows.cu_seqlens.tolist()
    cut = [(flat[a:b], targets[a:b]) for a, b in pairwise(ends)]
    return [part for part in cut if (part[1] != IGNORE_INDEX).any()]


def test_a_row_holds_the_chosen_answer_and_then_the_rejected_one_after_the_same_prompt():
    pairs = made_pairs(5)
    documents = documents_of(gather(dataset_of(pairs), np.arange(5)))
    assert len(documents) == 10
    for number, pair in enumerate(pairs):
        for (ids, targets), example in zip(
            documents[2 * number : 2 * number + 2], (pair.chosen, pair.rejected), strict=True
        ):
            assert ids.tolist() == example.ids[:-1].tolist()
            trained = targets[targets != IGNORE_INDEX]
            assert trained.tolist() == example.ids[example.is_trained].tolist()


def test_values_of_a_pair_go_with_it_into_whatever_microbatch():
    reference = np.arange(12.0).reshape(6, 2)
    rows = gather(dataset_of(made_pairs(6), reference), np.array([4, 1, 5]))
    part = Microbatch.from_rows(rows, 1, 3)
    assert part.row_values is not None
    assert part.row_values.tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert microbatch_of(dataset_of(made_pairs(6)), [4]).row_values is None


def test_targets_are_counted_by_document_after_rows_were_shortened():
    pairs = made_pairs(3)
    counts = microbatch_of(dataset_of(pairs), [0, 1, 2]).places_by_document
    expected = [int(e.is_trained.sum()) for p in pairs for e in (p.chosen, p.rejected)]
    assert [count for count in counts if count] == expected


def lengths(fitted):
    assert fitted.pair is not None
    return [len(example.ids) for example in (fitted.pair.chosen, fitted.pair.rejected)]


def test_both_answers_keep_the_same_prompt_when_the_longer_one_takes_room_from_it():
    prompt = range(12)
    fitted = fit_pair(pair_of(prompt, [50] * 15, [51] * 2), 20, "refuse")
    assert fitted.pair is not None
    contexts = [
        example.ids[: example.num_context].tolist()
        for example in (fitted.pair.chosen, fitted.pair.rejected)
    ]
    assert contexts == [[0, 8, 9, 10, 11]] * 2  # the mark, and the end of the question
    assert (fitted.effect, lengths(fitted)) == ("cut_context", [20, 7])


@pytest.mark.parametrize(
    ("truncation", "kept"), [("refuse", None), ("drop", None), ("cut", [20, 3])]
)
def test_an_answer_that_does_not_fit_takes_its_pair_along(truncation, kept):
    fitted = fit_pair(pair_of(range(4), [50] * 30, [51] * 2), 20, truncation)
    assert (lengths(fitted) if fitted.pair else None) == kept
    assert fitted.needed == 31


def test_what_fits_stays_as_it_is():
    (pair,) = made_pairs(1)
    fitted = fit_pair(pair, SEQUENCE_LENGTH + 1, "refuse")
    assert (fitted.effect, lengths(fitted)) == (
        None,
        [len(pair.chosen.ids), len(pair.rejected.ids)],
    )
