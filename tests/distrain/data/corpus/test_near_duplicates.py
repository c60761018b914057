import itertools
import statistics

import numpy as np
import pytest

from distrain.config.dedup import MinHashConfig
from distrain.data.corpus.minhash import EMPTY, estimate_similarity, meeting_probability
from distrain.data.corpus.near_duplicates import MAX_HEADS, find_near_duplicates
from tests.distrain.data.corpus.planted import jaccard, replaced, sketches_of, words_of

FINEWEB = MinHashConfig()


def clusters_of(ranges, config=FINEWEB, candidates=None, **settings):
    if candidates is None:
        candidates = [np.ones(sketches.shape[0], bool) for sketches in ranges]
    members, heads = find_near_duplicates(ranges, candidates, config, **settings).members()
    return dict(zip(members.tolist(), heads.tolist(), strict=True))


def cut(sketches, *places):
    return np.split(sketches, places)


@pytest.fixture(scope="module")
def planted():
    """80 documents, each beside a copy with 2 % and one with 10 % of the words replaced."""
    originals = [words_of(300, seed) for seed in range(80)]
    slight = [replaced(words, 0.02, seed) for seed, words in enumerate(originals)]
    strong = [replaced(words, 0.10, seed) for seed, words in enumerate(originals)]
    return originals, slight, strong


@pytest.fixture(scope="module")
def sketches(planted):
    return sketches_of(list(itertools.chain(*planted)))


@pytest.mark.parametrize(
    ("share", "low", "high"), [(0.02, 0.9, 1.0), (0.05, 0.15, 0.5), (0.10, 0.005, 0.05)]
)
def test_planted_copies_are_found_as_often_as_the_s_curve_says(share, low, high):
    originals = [words_of(300, seed) for seed in range(100)]
    copies = [replaced(words, share, seed) for seed, words in enumerate(originals)]
    pairs = np.stack([sketches_of(originals), sketches_of(copies)], axis=1)
    found = sum(bool(clusters_of([pair])) for pair in pairs)
    chances = [
        meeting_probability(jaccard(original, copy), 14, 8)
        for original, copy in zip(originals, copies, strict=True)
    ]
    assert low < statistics.mean(chances) < high
    spread = sum(chance * (1 - chance) for chance in chances) ** 0.5
    assert abs(found - sum(chances)) <= 3 * spread


def test_unlike_documents_do_not_meet(sketches):
    assert clusters_of([sketches[:80]]) == {}


def test_the_pairs_are_those_with_a_whole_band_in_common(sketches):
    bands = sketches.reshape(240, 14, 8)
    meeting = [
        (a, b)
        for a, b in itertools.combinations(range(240), 2)
        if (bands[a] == bands[b]).all(axis=1).any()
    ]
    heads: dict[int, int] = {}
    for a, b in meeting:
        low = min(heads.get(a, a), heads.get(b, b))
        old = {heads.get(a, a), heads.get(b, b)}
        heads |= {n: low for n in [*heads, a, b] if heads.get(n, n) in old}
    assert clusters_of([sketches]) == heads
    assert len(heads) > 150


def test_ranges_threads_and_memory_change_nothing(sketches, tmp_path):
    whole = clusters_of([sketches])
    for places in [(1,), (80, 160), (0, 7, 7, 100, 240), tuple(range(1, 240))]:
        assert clusters_of(cut(sketches, *places)) == whole
    for threads, documents_at_once in [(1, 50), (3, 1000), (4, 7)]:
        assert (
            clusters_of(cut(sketches, 100), threads=threads, documents_at_once=documents_at_once)
            == whole
        )
    np.save(tmp_path / "sketches.npy", sketches)
    mapped = np.load(tmp_path / "sketches.npy", mmap_mode="r")
    assert mapped.flags.f_contiguous  # a band is one stretch of the file
    assert clusters_of([mapped]) == whole
    verified = MinHashConfig(min_similarity=0.7)
    assert clusters_of(cut(sketches, 9, 99), verified, threads=2, documents_at_once=31) == (
        clusters_of([sketches], verified)
    )


def test_documents_that_are_no_candidates_take_no_part(sketches):
    everyone = clusters_of([sketches])
    candidates = np.ones(240, bool)
    candidates[:80] = False
    left = clusters_of([sketches], candidates=[candidates])
    assert everyone
    assert left
    assert min(left) >= 80


def test_documents_without_ngrams_are_nobodys_copies():
    sketches = np.full((3, 112), EMPTY)
    assert clusters_of([sketches]) == {}


def test_an_estimate_below_the_asked_similarity_parts_what_met(sketches):
    asked = MinHashConfig(min_similarity=0.75)
    met, verified = clusters_of([sketches]), clusters_of([sketches], asked)
    members = np.array(sorted(set(verified) - set(verified.values())))
    heads = np.array([verified[n] for n in members.tolist()])
    # Here every cluster is an original and its two copies, so a head was compared with all.
    assert (estimate_similarity(sketches[heads], sketches[members]) >= 0.75).mean() > 0.9
    assert 0 < len(verified) < len(met)


def test_documents_unlike_the_first_of_a_bucket_are_compared_with_the_next():
    rows = np.arange(4 * 112, dtype=np.uint32).reshape(4, 112)
    rows[:, :8] = 1  # all meet in the first band
    rows[3] = rows[1]
    rows[3, -1] += 1
    asked = MinHashConfig(min_similarity=0.9)
    assert clusters_of([rows]) == {0: 0, 1: 0, 2: 0, 3: 0}
    assert clusters_of([rows], asked) == {1: 1, 3: 1}


def test_a_bucket_of_unlike_documents_is_compared_with_so_many_of_them_only():
    rows = np.arange((MAX_HEADS + 3) * 112, dtype=np.uint32).reshape(-1, 112)
    rows[:, :8] = 1
    rows[-1] = rows[-2]
    rows[-1, 8::8] += 1000  # meets the one before it in the first band alone
    assert clusters_of([rows], MinHashConfig(min_similarity=0.8)) == {}
    last = rows[-4:]
    assert clusters_of([last], MinHashConfig(min_similarity=0.8)) == {2: 2, 3: 2}


def test_a_corpus_without_documents_has_no_near_duplicates():
    assert clusters_of([]) == {}
    assert clusters_of([np.zeros((0, 112), np.uint32)]) == {}
