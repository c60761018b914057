import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.config.data import SPLITS, DataConfig
from distrain.data.corpus.cleaned import read_batches
from distrain.data.corpus.cleaning import CleanJob, load_cleaned
from distrain.data.corpus.duplicates import decide, load_masks, save_decision
from distrain.data.corpus.plan import make_plan
from distrain.data.corpus.work_folder import WorkFolder
from distrain.data.curate.split import split_of, text_digest
from distrain.data.workers import WorkerPool
from distrain.errors import DataError


def config(folder, **settings):
    return DataConfig.model_validate(
        {
            "source": {"kind": "files", "paths": [str(folder)]},
            "validation_fraction": 0.2,
            "test_fraction": 0.2,
            **settings,
        }
    )


def write(folder, texts, name="texts"):
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "texts"


@pytest.fixture
def work(tmp_path):
    return WorkFolder(tmp_path / "work")


def collect(data, work):
    """Run the phases clean and dedup in this process."""
    plan = make_plan(data, "settings")
    cleaned = [CleanJob(data, planned, work.root).run() for planned in plan.ranges]
    return plan, cleaned, decide(plan, data, cleaned, work, WorkerPool(1))


def kept(plan, decision, work):
    """Split of each text that is kept, in order."""
    found = []
    for planned, mask in zip(plan.ranges, decision.masks, strict=True):
        for batch in read_batches(work.documents(planned)):
            reasons = mask[batch.first : batch.first + len(batch.texts)]
            for text, split, reason in zip(batch.texts, batch.splits, reasons, strict=True):
                if reason == 0:
                    found.append((text, SPLITS[split]))
    return found


TEXTS = [f"document number {n}" for n in range(60)]


@pytest.mark.parametrize("range_bytes", [1, 1_000_000])
def test_each_document_is_kept_once_or_dropped_for_a_reason(folder, work, range_bytes):
    odd = [
        "document number 3  \r\n",
        "\ufeffdocument number 4",
        "",
        " \n",
        "tiny",
        "nul\0",
        "\ud800 half a pair",
    ]
    write(folder, TEXTS + odd)
    (folder / "image.png").write_bytes(b"\x89PNG\xff")
    data = config(folder, min_characters=10, range_bytes=range_bytes)
    plan, _, decision = collect(data, work)
    documents = kept(plan, decision, work)
    assert sorted(text for text, _ in documents) == sorted(TEXTS)
    counts = decision.corpus.counts
    assert counts.rejected == {"duplicate": 2, "empty": 2, "too_short": 1}
    assert counts.broken == {"nul_bytes": 1, "not_utf8": 2}
    assert counts.read == len(TEXTS) + len(odd) + 1
    assert counts.kept == Counter(split for _, split in documents)
    assert counts.text_bytes.total() == sum(len(text) for text in TEXTS)
    assert any("image.png (not_utf8)" in broken for broken in decision.corpus.broken)


def test_examples_of_every_reason_are_kept_and_no_more_than_asked_for(folder, work):
    write(folder, [*TEXTS, *TEXTS, "", " ", "x", "y", "nul\0"])
    _, _, decision = collect(config(folder, min_characters=4, rejection_samples=2), work)
    found = Counter(rejection.reason for rejection in decision.rejections["main"])
    assert found == {"duplicate": 2, "empty": 2, "too_short": 2, "nul_bytes": 1}
    for rejection in decision.rejections["main"]:
        assert "texts.jsonl:" in rejection.path
        if rejection.reason == "duplicate":
            assert rejection.text in TEXTS
    _, _, none = collect(config(folder, rejection_samples=0), work)
    assert none.rejections == {"main": []}


def test_examples_do_not_depend_on_how_the_input_is_cut(folder, work, tmp_path):
    for number in range(30):
        write(
            folder, [f"{number} {n}" for n in range(9)] + ["x" * n for n in range(4)], str(number)
        )
    samples = []
    for range_bytes in (1, 300, 10**6):
        data = config(folder, min_characters=3, rejection_samples=3, range_bytes=range_bytes)
        _, _, decision = collect(data, WorkFolder(tmp_path / str(range_bytes)))
        too_short = [found for found in decision.rejections["main"] if found.reason == "too_short"]
        samples.append(too_short)
        assert len(too_short) == 3
    assert samples[0] == samples[1] == samples[2]


def test_broken_files_within_the_budget_are_counted_and_beyond_it_refused(folder, work):
    write(folder, TEXTS)
    for number in range(4):
        (folder / f"x{number}.bin").write_bytes(b"\0")
    for range_bytes in (1, 10**6):
        _, _, decision = collect(config(folder, skip_budget=4, range_bytes=range_bytes), work)
        assert decision.corpus.counts.broken == {"nul_bytes": 4}
        with pytest.raises(DataError) as caught:
            collect(config(folder, skip_budget=3, range_bytes=range_bytes), work)
        assert caught.value.found.startswith("more than 3 broken files, the first: ")
        assert "x0.bin (nul_bytes)" in caught.value.found


def test_a_range_that_breaks_the_budget_alone_is_not_read_to_its_end(folder, work):
    write(folder, ["\0"] * 1000)
    data = config(folder, skip_budget=2)
    (planned,) = make_plan(data, "settings").ranges
    with pytest.raises(DataError, match="more than 2 broken files"):
        CleanJob(data, planned, work.root).run()
    assert not [path for path in work.root.rglob("*") if path.is_file()]


def test_duplicates_and_short_texts_cost_no_budget(folder, work):
    write(folder, [*TEXTS, *TEXTS, "", "x"])
    _, _, decision = collect(config(folder, skip_budget=0), work)
    assert decision.corpus.counts.rejected["duplicate"] == len(TEXTS)


def test_of_copies_in_several_sources_the_first_one_stays(folder, work, tmp_path):
    write(folder, TEXTS)
    write(tmp_path / "more", [*TEXTS[:20], *(f"other {n}" for n in range(30))])
    sources = {
        name: {"kind": "files", "paths": [str(path)]}
        for name, path in {"web": folder, "more": tmp_path / "more"}.items()
    }
    for names, copies in ((["web", "more"], [0, 20]), (["more", "web"], [0, 20])):
        data = config(folder, source=None, sources={name: sources[name] for name in names})
        _, _, decision = collect(data, WorkFolder(tmp_path / names[0]))
        found = decision.corpus.sources
        assert [found[name].rejected["duplicate"] for name in names] == copies
        assert decision.corpus.counts.kept.total() == 90


def test_a_growing_corpus_moves_no_document(folder, work, tmp_path):
    write(folder, TEXTS[:40], "b")
    plan, _, decision = collect(config(folder), work)
    before = dict(kept(plan, decision, work))
    write(folder, TEXTS[40:], "a")
    work = WorkFolder(tmp_path / "again")
    plan, _, decision = collect(config(folder), work)
    after = dict(kept(plan, decision, work))
    assert before.items() < after.items()
    assert set(after.values()) == {"train", "validation", "test"}


def test_masks_and_records_are_read_back_as_they_were(folder, work):
    write(folder, [*TEXTS, *TEXTS[:7]])
    (folder / "more.jsonl").write_text("")
    data = config(folder, range_bytes=1)
    plan, cleaned, decision = collect(data, work)
    assert load_masks(work, cleaned) is None
    save_decision(decision, plan, work)
    loaded = load_masks(work, cleaned) or []
    assert len(loaded) == len(plan.ranges) > 2
    assert all(map(np.array_equal, loaded, decision.masks))
    assert [load_cleaned(work, planned) for planned in plan.ranges] == cleaned
    work.documents(plan.ranges[1]).write_bytes(b"cut off")
    assert load_cleaned(work, plan.ranges[1]) is None


@settings(deadline=None)
@given(st.text(min_size=1))
def test_larger_fractions_only_take_from_train(text):
    text = text.encode(errors="ignore").decode()
    digest = text_digest(text)
    small, large = split_of(digest, 0.1, 0.1), split_of(digest, 0.3, 0.1)
    assert small == large or (small, large) == ("train", "validation")


def test_splits_have_the_sizes_that_were_asked_for():
    counts = Counter(split_of(text_digest(str(n)), 0.05, 0.02) for n in range(20_000))
    assert counts["validation"] == pytest.approx(1000, abs=150)
    assert counts["test"] == pytest.approx(400, abs=100)


def test_an_empty_corpus_says_what_was_dropped(folder, work):
    write(folder, ["", "a"])
    with pytest.raises(DataError, match=r"an empty corpus \(dropped: 1 empty, 1 too_short\)"):
        collect(config(folder, min_characters=5), work)


def test_an_empty_split_is_refused_with_a_remedy(folder, work):
    write(folder, TEXTS[:3])
    for changes, split in [
        ({"validation_fraction": 1e-9}, "validation"),
        ({"validation_fraction": 0.49, "test_fraction": 1e-9}, "test"),
    ]:
        with pytest.raises(DataError) as caught:
            collect(config(folder, **changes), work)
        assert f"no document in the {split} split (3 documents in all)" in caught.value.found
        assert f"raise data.{split}_fraction" in caught.value.remedy


def test_the_digest_knows_one_corpus_from_another(folder, work):
    def digest():
        return collect(config(folder), work)[2].corpus.sha256

    write(folder, TEXTS)
    first = digest()
    assert digest() == first
    write(folder, [*TEXTS, TEXTS[5], ""])
    assert digest() == first
    write(folder, [*TEXTS, "one more"])
    assert digest() != first
    write(folder, TEXTS[::-1])
    assert digest() != first
