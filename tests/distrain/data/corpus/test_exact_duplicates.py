import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.data.corpus.clusters import Reason, choose
from distrain.data.corpus.exact_duplicates import find_exact_duplicates
from distrain.data.curate.split import text_digest


def digests_of(texts):
    return np.frombuffer(b"".join(map(text_digest, texts)), np.uint8).reshape(-1, 16)


def dropped(ranges, **settings):
    clusters = find_exact_duplicates([digests_of(texts) for texts in ranges], **settings)
    count = sum(map(len, ranges))
    return choose(clusters, np.zeros(count, np.uint8), Reason.DUPLICATE)[0].tolist()


def later_copies(texts):
    return [n for n, text in enumerate(texts) if text in texts[:n]]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), max_size=5),
    st.integers(1, 10),
)
def test_all_but_the_first_go_whatever_the_ranges_and_the_memory(ranges, documents_at_once):
    texts = [text for found in ranges for text in found]
    assert dropped(ranges, documents_at_once=documents_at_once) == later_copies(texts)


def test_many_parts_of_the_key_space_find_the_same():
    texts = [str(n % 700) for n in range(1000)]
    for documents_at_once in (1, 13, 1000):
        assert dropped([texts], documents_at_once=documents_at_once) == list(range(700, 1000))


@pytest.mark.parametrize("place", [0, 7, 8, 15])
def test_every_byte_of_a_digest_counts(place):
    digests = np.zeros((3, 16), np.uint8)
    digests[1, place] = 1
    numbers, _ = choose(find_exact_duplicates([digests]), np.zeros(3, np.uint8), Reason.DUPLICATE)
    assert numbers.tolist() == [2]


def test_a_corpus_without_documents_has_no_duplicates():
    assert dropped([]) == []
    assert dropped([[], []]) == []
