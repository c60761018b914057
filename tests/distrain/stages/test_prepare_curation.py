"""What is done to documents on the way: each part is tested on its own elsewhere."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from distrain.config.data import SPLITS
from distrain.config.recipe import PrepareStage
from distrain.data.corpus.plan import load_plan
from distrain.data.corpus.tokenize_range import tokenize_range
from distrain.data.curate.clean import Cleaner
from distrain.data.shards.reader import open_split
from distrain.data.tokenizer.encoders import ENCODERS
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.stages.prepare import prepare

WORDS = [f"{one}{two}{three}" for one in "bdfgklm" for two in "aeiou" for three in ("n", "r", "st")]


def text(number, words=60):
    choose = random.Random(number)
    return " ".join(choose.choices(WORDS, k=words)) + "."


TEXTS = [text(number) for number in range(120)]


def write(folder, texts, name="a", **fields):
    folder.mkdir(exist_ok=True, parents=True)
    rows = [
        {"text": text} | {key: value[n] for key, value in fields.items()}
        for n, text in enumerate(texts)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "files", "paths": [str(folder)]}


def stage(source, **data):
    return PrepareStage.model_validate({
        "kind": "prepare",
        "data": {"source": source, "validation_fraction": 0.2, "test_fraction": 0.2,
                 "workers": 1, "range_bytes": 8_000, **data},
        "tokenizer": {"vocab_size": 400, "engine": "tokenizers"},
    })  # fmt: skip


def decoded(folder, split, source="main"):
    tokens = open_split(folder.path, split, source, stage_kind="evaluate")
    tokenizer = Tokenizer.load(folder.tokenizer)
    return [
        tokenizer.decode(tokens.document(number)[:-1].tolist())
        for number in range(tokens.num_documents)
    ]


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.data)])
def test_near_copies_in_other_ranges_go(tmp_path, workers):
    near = [f"{found} bost" for found in TEXTS[:30]]
    source = write(tmp_path / "in", TEXTS + near)
    folder = StageFolder(tmp_path, "prepare")
    figures = prepare(stage(source, workers=workers, dedup={"minhash": {}}), folder)
    dropped = figures["dropped"]
    assert set(dropped) <= {"near_duplicate", "held_out_copy"}
    assert sum(dropped.values()) == 30
    left = {found.removesuffix(" bost") for split in SPLITS for found in decoded(folder, split)}
    assert left == set(TEXTS)
    samples = [json.loads(line) for line in folder.rejections.read_text().splitlines()]
    assert {sample["reason"] for sample in samples} == set(dropped)


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.data)])
def test_train_documents_that_repeat_held_out_ones_go(tmp_path, workers):
    first = StageFolder(tmp_path, "first")
    prepare(stage(write(tmp_path / "in", TEXTS)), first)
    held_out = decoded(first, "test") + decoded(first, "validation")
    leaks = [f"{text(500 + n)} {found[:200]}" for n, found in enumerate(held_out)]
    source = write(tmp_path / "in", leaks, "b")
    benchmark = tmp_path / "benchmark.txt"
    benchmark.write_text(decoded(first, "train")[0])
    decontaminate = {"texts": [str(benchmark)]}
    folder = StageFolder(tmp_path, "prepare")
    settings = stage(source, workers=workers, dedup={"decontaminate": decontaminate})
    figures = prepare(settings, folder)
    train = decoded(folder, "train")
    assert benchmark.read_text() not in train
    for found in held_out:
        assert not [other for other in train if found[:200] in other]
    # Leaks that fell into a held-out split themselves stay there.
    assert 1 < figures["dropped"]["contaminated"] <= len(leaks) + 1


def test_quality_lies_beside_the_shards_and_in_the_figures(tmp_path):
    source = write(tmp_path / "in", TEXTS)
    folder = StageFolder(tmp_path, "prepare")
    figures = prepare(stage(source, quality=True, keep_cleaned=True), folder)
    quality = figures["sources"]["main"]["quality"]
    assert quality["words"]["documents"] == 120
    assert quality["words"]["mean"] == 60
    manifest = open_split(folder.path, "train", stage_kind="pretrain").manifest
    assert manifest.columns["words"] == "float32"
    files = sorted((folder.split("train") / "main").glob("*.words"))
    values = np.concatenate([np.fromfile(file, "<f4") for file in files])
    assert values.tolist() == [60] * manifest.documents
    cleaned = pq.read_table(folder.work / "cleaned" / "main").column("words")
    assert len(cleaned) == 120


def test_labels_are_reported_and_limits_hold(tmp_path):
    labels = ["good" if n % 3 else "bad" for n in range(120)]
    source = write(tmp_path / "in", [*TEXTS, TEXTS[1]], label=[*labels, "bad"])
    source["label_field"] = "label"
    folder = StageFolder(tmp_path, "prepare")
    figures = prepare(stage(source, labels={"max_conflict_fraction": 0.5}), folder)
    found = figures["sources"]["main"]["labels"]
    assert found["labels"] == {"good": 80, "bad": 41}
    assert found["conflicts"], "the same text with two labels"
    with pytest.raises(DataError, match=r"data.labels.max_conflict_fraction: found 2 of 121"):
        prepare(stage(source, labels={}), StageFolder(tmp_path, "strict"))


def test_a_source_may_have_its_own_curation(tmp_path):
    marked = [f"<p>{found}</p>" for found in TEXTS]
    web = write(tmp_path / "web", marked) | {"curation": {"html": True}}
    plain = write(tmp_path / "plain", [f"<p>{found}</p> plain" for found in TEXTS])
    folder = StageFolder(tmp_path, "prepare")
    prepare(stage(None, sources={"web": web, "plain": plain}), folder)
    assert set(decoded(folder, "train", "web")) < set(TEXTS)
    assert all(found.startswith("<p>") for found in decoded(folder, "train", "plain"))


@pytest.fixture(scope="module")
def on_the_fly(tmp_path_factory):
    """A stage with and one without ``on_the_fly``, of equal documents without copies."""
    root = tmp_path_factory.mktemp("on_the_fly")
    source = write(root / "in", [*TEXTS, "", "nul\0"])
    settings = stage(source, on_the_fly=True)
    folder, whole = StageFolder(root, "prepare"), StageFolder(root, "whole")
    return settings, folder, prepare(settings, folder), whole, prepare(stage(source), whole)


def test_on_the_fly_all_but_the_train_split_is_made(on_the_fly):
    _, folder, figures, whole, wanted = on_the_fly
    assert not folder.split("train").exists()
    assert not folder.work.exists()
    assert folder.tokenizer.read_bytes() == whole.tokenizer.read_bytes(), "little text: all of it"
    for split in ("validation", "test"):
        assert figures["splits"][split] == wanted["splits"][split]
        assert decoded(folder, split) == decoded(whole, split)
    assert figures["splits"]["train"] == wanted["splits"]["train"] | {"tokens": None}
    assert figures["dropped"] == wanted["dropped"]
    json.dumps(figures)


def test_ranges_tokenized_on_the_fly_are_the_train_split(on_the_fly):
    settings, folder, figures, whole, _ = on_the_fly
    tokenizer = Tokenizer.load(folder.tokenizer)
    encoder = ENCODERS["tokenizers"](tokenizer.content)
    plan = load_plan(folder.plan)
    assert plan is not None
    assert len(plan.ranges) > 3
    cleaner = Cleaner(settings.data)
    tokens, names, kept, rest = [], [], 0, 0
    for planned in plan.ranges:
        encoded, paths, counts = tokenize_range(settings.data, planned, cleaner, encoder)
        assert encoded.ids.dtype == np.uint16
        assert len(paths) == len(encoded.ends) == counts.kept["train"]
        tokens += [ids.tolist() for ids in np.split(encoded.ids, encoded.ends)[:-1]]
        names += paths
        kept += counts.kept.total()
        rest += counts.read - counts.kept.total()
    train = open_split(whole.path, "train", stage_kind="pretrain")
    assert tokens == [train.document(n)[:-1].tolist() for n in range(train.num_documents)]
    assert (kept, kept + rest) == (figures["documents"], figures["read"])
    assert len(set(names)) == len(names)


def test_on_the_fly_copies_are_found_within_a_range_only(tmp_path):
    source = write(tmp_path / "in", [*TEXTS[:60], *TEXTS[:3]])
    figures = {
        size: prepare(
            stage(source, on_the_fly=True, range_bytes=size), StageFolder(tmp_path, str(size))
        )
        for size in (1_000, 10**6)
    }
    train = {size: found["splits"]["train"]["documents"] for size, found in figures.items()}
    assert figures[10**6]["dropped"] == {"duplicate": 3}
    assert train[1_000] - train[10**6] == 3 - figures[1_000]["dropped"].get("duplicate", 0) > 0
    for split in ("validation", "test"):
        assert figures[1_000]["splits"][split] == figures[10**6]["splits"][split]


def test_a_sample_of_every_range_trains_the_tokenizer(tmp_path):
    source = write(tmp_path / "in", TEXTS)
    settings = stage(source, on_the_fly=True, keep_cleaned=True).model_dump(mode="json")
    settings["tokenizer"]["train_bytes"] = 4_000
    folder = StageFolder(tmp_path, "prepare")
    prepare(PrepareStage.model_validate(settings), folder)
    files = sorted((folder.work / "cleaned" / "main").glob("*.parquet"))
    train = [pq.read_table(file).column("split").to_pylist().count(0) for file in files]
    assert len(files) > 3
    assert all(0 < count <= 5 for count in train)
