from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.config.labels import LabelsConfig, PairChecksConfig
from distrain.data.chats.pairs_file import Pair
from distrain.data.corpus.labels import SHOWN, Labelled, inspect_labels, inspect_pairs
from distrain.data.curate.split import text_digest
from distrain.errors import DataError

LENIENT = LabelsConfig(max_missing_fraction=None, max_conflict_fraction=None)


def labelled(*rows):
    return [
        Labelled(f"a.jsonl:{number}", text_digest(text), label)
        for number, (text, label) in enumerate(rows, 1)
    ]


def pairs(*rows):
    return [Pair(prompt, answer, f"p.jsonl:{n}") for n, (prompt, answer) in enumerate(rows, 1)]


def refusal(report, config, where="data.labels"):
    with pytest.raises(DataError) as caught:
        report.check(config, where)
    return str(caught.value)


def test_sound_labels_pass():
    report = inspect_labels(labelled(("a", "x"), ("b", "y"), ("a", "x"), ("c", " x ")))
    assert (report.documents, report.missing, report.conflicting) == (4, 0, 0)
    assert list(report.labels.items()) == [("x", 3), ("y", 1)]
    report.check(LabelsConfig(), "data.labels")


def test_missing_and_blank_labels_are_counted_and_named():
    report = inspect_labels(labelled(("a", None), ("b", "x"), ("c", " "), ("d", "x")))
    assert (report.missing, report.labelled) == (2, 2)
    assert refusal(report, LabelsConfig()) == (
        "data.labels.max_missing_fraction: found 2 of 4 documents without a label, the first: "
        "a.jsonl:1; a.jsonl:3; expected none. Give each document a label, correct label_field, "
        "or leave these documents out, or raise max_missing_fraction."
    )
    report.check(LabelsConfig(max_missing_fraction=0.5), "data.labels")
    report.check(LENIENT, "data.labels")
    assert "at most 49.00% of them" in refusal(report, LabelsConfig(max_missing_fraction=0.49))


def test_every_document_of_a_text_with_two_labels_is_in_conflict():
    rows = [("same", "x"), ("other", "x"), ("same", "x"), ("same", "y"), ("same", "x")]
    report = inspect_labels(labelled(*rows))
    assert report.conflicting == 4
    assert [str(conflict) for conflict in report.conflicts] == [
        "a.jsonl:1 has 'x', a.jsonl:4 has 'y'"
    ]
    assert refusal(report, LabelsConfig()).startswith(
        "data.labels.max_conflict_fraction: found 4 of 5 labelled documents whose text has two "
        "labels, the first: a.jsonl:1 has 'x', a.jsonl:4 has 'y'; expected none."
    )
    report.check(LabelsConfig(max_conflict_fraction=0.8), "data.labels")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", None])), max_size=20))
def test_counts_are_those_of_the_definition(rows):
    report = inspect_labels(labelled(*rows))
    known = [(text, label) for text, label in rows if label]
    labels_of = {text: {label for other, label in known if other == text} for text in "abc"}
    assert report.missing == len(rows) - len(known)
    assert report.labels == Counter(label for _, label in known)
    assert report.conflicting == sum(len(labels_of[text]) > 1 for text, _ in known)
    assert len(report.conflicts) == sum(len(labels) > 1 for labels in labels_of.values())


def test_a_label_that_is_too_frequent_or_too_rare_is_named():
    report = inspect_labels(labelled(*((str(n), "x" if n < 9 else "y") for n in range(10))))
    report.check(LabelsConfig(max_label_fraction=0.9, min_label_fraction=0.1), "data.labels")
    assert refusal(report, LabelsConfig(max_label_fraction=0.8)) == (
        "data.labels.max_label_fraction: found 9 of 10 documents with the label 'x'; expected at "
        "most 80.00% of them. Leave out some of them, or add documents with other labels, "
        "or raise max_label_fraction."
    )
    assert refusal(report, LabelsConfig(min_label_fraction=0.2)) == (
        "data.labels.min_label_fraction: found 1 of 10 documents with the label 'y'; expected at "
        "least 20.00% with each of the 2 labels. Add documents with that label, leave it out, "
        "or lower data.labels.min_label_fraction."
    )


def test_balance_needs_labels():
    report = inspect_labels(labelled(("a", None)))
    strict = LENIENT.model_copy(update={"min_label_fraction": 0.5, "max_label_fraction": 0.5})
    report.check(strict, "data.labels")
    inspect_labels([]).check(LabelsConfig(min_label_fraction=0.5), "data.labels")


def test_examples_are_few_and_short():
    long = "y" * 500
    rows = [(str(n % 20), "x" if n < 20 else long) for n in range(40)] + [("z", None)] * 20
    report = inspect_labels(labelled(*rows))
    assert len(report.conflicts) == len(report.missing_paths) == SHOWN
    assert str(report.conflicts[0]) == f"a.jsonl:1 has 'x', a.jsonl:21 has '{'y' * 80}...'"


def test_empty_answers_and_prompts_are_counted():
    report = inspect_pairs(pairs(("q", "a"), ("q2", " \n"), ("", "a")))
    assert (report.pairs, report.empty) == (3, 2)
    assert refusal(report, PairChecksConfig(), "pairs.checks") == (
        "pairs.checks.max_empty_fraction: found 2 of 3 pairs with a blank prompt or answer, "
        "the first: p.jsonl:2; p.jsonl:3; expected none. "
        "Fill them in, or leave these pairs out, or raise max_empty_fraction."
    )
    report.check(PairChecksConfig(max_empty_fraction=0.7), "pairs.checks")


def test_prompts_with_several_answers_are_compared_after_normalization():
    report = inspect_pairs(
        pairs(("q ", "a"), ("q", "a\r\n"), ("q\r\n", "b"), ("caf\u00e9", "a"), ("cafe\u0301", "a"))
    )
    assert (report.conflicting, report.repeated) == (3, 2)
    assert [conflict.paths for conflict in report.conflicts] == [("p.jsonl:1", "p.jsonl:3")]
    report.check(PairChecksConfig(), "pairs.checks")
    message = refusal(report, PairChecksConfig(max_conflict_fraction=0.5), "pairs.checks")
    assert "3 of 5 pairs whose prompt has several answers" in message


def test_half_of_a_surrogate_pair_is_no_crash():
    assert inspect_pairs(pairs(("q", "\ud800"), ("q", "b"))).conflicting == 2
