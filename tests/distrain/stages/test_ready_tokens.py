"""Ready tokens beside text and alone: from ``prepare`` to the streams of ``pretrain``."""

import itertools
import json

import numpy as np
import pytest

from distrain.config.loading import PretrainDataConfig
from distrain.config.recipe import PrepareStage, PretrainStage
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.remote.publish import publish
from distrain.data.samples.feed import Feed
from distrain.data.samples.loader import Loader
from distrain.data.samples.schedule import Schedule
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.stages.prepare import prepare
from distrain.stages.pretrain_data import open_pretrain_data
from tests.distrain.data.adapters.foreign_files import write_megatron
from tests.distrain.data.made_corpus import make_texts, make_tokenizer, write_split

LENGTH = 16


@pytest.fixture
def old(tmp_path):
    """Megatron files, and the tokenizer that made them."""
    tokenizer = make_tokenizer(tmp_path / "made")
    ids = [[*tokenizer.encode(text), tokenizer.eos_id] for text in make_texts(60)]
    (tmp_path / "old").mkdir()
    write_megatron(tmp_path / "old" / "a", ids[:30])
    write_megatron(tmp_path / "old" / "b", ids[30:])
    return ids


@pytest.fixture
def run(tmp_path):
    """Another run's prepare stage."""
    for seed, split in enumerate(("train", "validation", "test")):
        write_split(tmp_path / "run", split, make_texts(40, seed=seed), block_bytes=512)
        write_split(tmp_path / "run", split, make_texts(9, seed=9 + seed), source="code")
    return tmp_path / "run"


def tokens_of(path, **settings):
    return {"kind": "tokens", "format": "distrain", "paths": [str(path)]} | settings


def megatron(tmp_path, **settings):
    return tokens_of(
        tmp_path / "old", format="megatron", validation_fraction=0.1, test_fraction=0.1
    ) | {"tokenizer": str(tmp_path / "made" / "tokenizer.json")} | settings  # fmt: skip


def prepare_stage(sources, **sections):
    data = {"sources": sources, "workers": 1, "validation_fraction": 0.2, "test_fraction": 0.2}
    return PrepareStage.model_validate({"kind": "prepare", "data": data} | sections)


def opened(stage, folder, tmp_path, **data):
    pretrain = PretrainStage.model_validate(
        {
            "kind": "pretrain",
            "training": {
                "sequence_length": LENGTH,
                "global_batch_size": 8,
                "micro_batch_size": 8,
                "max_steps": 1,
            },
            "data": {"cache": {"folder": str(tmp_path / "cache")}} | data,
        }
    )
    prepared = PreparedData(stage.data, folder, pretrain.data, stage_kind="pretrain")
    return open_pretrain_data(prepared, SampleSettings(tmp_path / "pretrain", LENGTH, 1))


def test_a_recipe_of_ready_tokens_needs_no_text(old, tmp_path):
    stage = prepare_stage({"old": megatron(tmp_path)})
    folder = StageFolder(tmp_path, "prepare")
    result = prepare(stage, folder)
    tokenizer = Tokenizer.load(folder.tokenizer)
    assert tokenizer.content == Tokenizer.load(tmp_path / "made").content
    kept = {"train": old[:48], "validation": old[48:54], "test": old[54:]}
    for split, ids in kept.items():
        assert result["splits"][split]["documents"] == len(ids)
        assert result["splits"][split]["tokens"] == sum(map(len, ids))
        assert result["sources"]["old"]["kept"][split] == len(ids)
    assert result["vocab_size"] == tokenizer.vocab_size
    data = opened(stage, folder, tmp_path)
    flat = np.concatenate(kept["train"])
    assert data.token_counts().tolist() == np.bincount(flat, minlength=300).tolist()
    assert data.train["old"].num_samples == (len(flat) - 1) // LENGTH
    assert len(data.validation["old"]) == (sum(map(len, kept["validation"])) - 1) // LENGTH


def test_text_and_ready_tokens_are_prepared_side_by_side(old, run, tmp_path):
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(make_texts(40, seed=5)):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    web = {"kind": "files", "paths": [str(tmp_path / "texts")]}
    sources = {"web": web, "old": megatron(tmp_path), "ran": tokens_of(run)}
    path = str(tmp_path / "made" / "tokenizer.json")
    stage = prepare_stage(sources, tokenizer={"path": path})
    folder = StageFolder(tmp_path, "prepare")
    result = prepare(stage, folder)
    of_web = result["sources"]["web"]["kept"]["train"]
    assert result["splits"]["train"]["documents"] == of_web + 48 + 49
    assert result["sources"]["ran"]["tokens"]["train"] > 0
    data = opened(stage, folder, tmp_path, packing="best_fit")
    assert data.train.keys() == {"web", "old", "ran"}
    trained = sum(figures["tokens"]["train"] for figures in result["sources"].values())
    assert data.token_counts().sum() == trained
    again = prepare(stage, folder)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_a_published_corpus_gives_the_batches_of_its_folder(run, tmp_path, packing):
    publish(run, f"file://{tmp_path}/there")
    read = {}
    for name, path in (("here", run), ("there", f"file://{tmp_path}/there")):
        stage = prepare_stage({"ran": tokens_of(path)})
        folder = StageFolder(tmp_path / name, "prepare")
        prepare(stage, folder)
        order = {"kind": "blocks", "block_samples": 4, "window_blocks": 4}
        data = opened(stage, folder, tmp_path / name, packing=packing, order=order)
        feed = Feed(data.train, Schedule.planned(8, {0: {"ran": 1}}), 1)
        batches = Loader(feed, micro_batch_size=8).batches()
        digests = [batch.digest for batch in itertools.islice(batches, 20)]
        batches.close()
        read[name] = (digests, data.train["ran"].fingerprint, data.token_counts().tolist())
        assert (data.train["ran"].cache is not None) == (name == "there")
    assert read["here"] == read["there"]


def test_remote_samples_are_mixed_in_blocks_unless_said_otherwise(run, tmp_path):
    publish(run, f"file://{tmp_path}/there")
    stage = prepare_stage(
        {"here": tokens_of(run), "there": tokens_of(f"file://{tmp_path}/there", source="main")}
    )
    folder = StageFolder(tmp_path, "prepare")
    prepare(stage, folder)
    blocks = {
        kind: {
            name: stream.order.block_samples
            for name, stream in opened(stage, folder, tmp_path, order={"kind": kind}).train.items()
        }
        for kind in ("auto", "full", "blocks")
    }
    assert blocks == {
        "auto": {"here": 0, "there": 256},
        "full": {"here": 0, "there": 0},
        "blocks": {"here": 256, "there": 256},
    }


def test_the_tokenizer_comes_from_where_the_corpus_was_published(run, tmp_path):
    publish(run, f"file://{tmp_path}/there")
    folder = StageFolder(tmp_path, "prepare")
    prepare(prepare_stage({"ran": tokens_of(f"file://{tmp_path}/there")}), folder)
    assert Tokenizer.load(folder.tokenizer).fingerprint == Tokenizer.load(run).fingerprint


def test_tokens_of_another_tokenizer_are_refused_with_the_way_out(old, run, tmp_path):
    make_tokenizer(tmp_path / "other", vocab_size=310)
    path = tmp_path / "other" / "tokenizer.json"
    refused = r"expected those of \w+, tokenizer.path \(.*Set tokenizer.path to the tokenizer.json"
    for source in (megatron(tmp_path), tokens_of(run)):
        stage = prepare_stage({"old": source}, tokenizer={"path": str(path)})
        with pytest.raises(DataError, match=rf"data.sources.old: found tokens of .*{refused}"):
            prepare(stage, StageFolder(tmp_path, "prepare"))
    both = prepare_stage({"old": megatron(tmp_path, tokenizer=str(path)), "ran": tokens_of(run)})
    with pytest.raises(DataError, match=r"data.sources.ran: .* of the first source that has one"):
        prepare(both, StageFolder(tmp_path, "prepare"))


def test_without_a_fingerprint_the_ids_must_at_least_be_possible(old, tmp_path, caplog):
    small = make_tokenizer(tmp_path / "small", vocab_size=300)
    tokenizer = {"path": str(tmp_path / "small" / "tokenizer.json")}
    folder = StageFolder(tmp_path, "prepare")
    prepare(prepare_stage({"old": megatron(tmp_path, tokenizer=None)}, tokenizer=tokenizer), folder)
    assert "only the size of the vocabulary is compared" in caplog.text
    write_megatron(tmp_path / "old" / "c", [[5, small.vocab_size, 0]] * 9)
    source = megatron(tmp_path, tokenizer=None, validation_fraction=0.02)
    with pytest.raises(DataError, match=r"c.bin: found id 300 at token 1; expected ids in \[0, 30"):
        prepare(prepare_stage({"old": source}, tokenizer=tokenizer), folder)
    source = megatron(tmp_path, tokenizer=None, eos_id=299)
    write_megatron(tmp_path / "old" / "c", [[5, 299]] * 9)
    with pytest.raises(DataError, match="documents that end with id 299; expected 0, the end-of-"):
        prepare(prepare_stage({"old": source}, tokenizer=tokenizer), folder)


def test_tokens_that_changed_since_prepare_are_refused(old, tmp_path):
    stage = prepare_stage({"old": megatron(tmp_path)})
    folder = StageFolder(tmp_path, "prepare")
    prepare(stage, folder)
    write_megatron(tmp_path / "old" / "a", old[:29])
    with pytest.raises(DataError, match="other tokens in its train split than the prepare"):
        opened(stage, folder, tmp_path)
    folder.ready.unlink()
    with pytest.raises(DataError, match="no record of the sources of ready tokens"):
        opened(stage, folder, tmp_path)


def test_a_source_without_a_whole_sample_is_named(run, tmp_path):
    stage = prepare_stage({"ran": tokens_of(run)})
    folder = StageFolder(tmp_path, "prepare")
    prepare(stage, folder)
    prepared = PreparedData(stage.data, folder, PretrainDataConfig(), stage_kind="pretrain")
    with pytest.raises(DataError, match=r"train split of source 'ran': .* less than one sample of"):
        open_pretrain_data(prepared, SampleSettings(tmp_path, 100_000, 1))


def test_the_record_holds_no_more_than_figures(run, tmp_path):
    folder = StageFolder(tmp_path, "prepare")
    prepare(prepare_stage({"ran": tokens_of(run)}), folder)
    record = json.loads(folder.ready.read_text())
    assert record["ran"]["digests"].keys() == {"train", "validation"}
