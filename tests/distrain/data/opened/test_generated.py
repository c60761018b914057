"""The seam of opened sources, by a form of its own: one new file, one line in ``FORMS``."""

import pytest

from distrain.config.data import DataConfig
from distrain.config.loading import PretrainDataConfig
from distrain.data.opened import FORMS
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.feed import Feed
from distrain.data.samples.loader import Loader
from distrain.data.samples.schedule import Schedule
from distrain.data.samples.seen import Ledger, SeenSource
from distrain.errors import DataError
from distrain.fault.wishes import Wish
from distrain.runs.folder import StageFolder
from distrain.stages.pretrain_data import open_pretrain_data
from distrain.train.loop import train
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.distrain.data.opened.generated import Formula, Generated
from tests.distrain.train.synthetic import SEQUENCE_LENGTH, make_run, make_stage
from tests.distrain.train.test_resume import close, records, yield_at

LENGTH, STEPS = 24, 12
SCHEDULE = Schedule.planned(8, {0: {"made": 2, "web": 1}, 7: {"made": 1, "web": 3}})


@pytest.fixture(autouse=True)
def form(monkeypatch):
    monkeypatch.setitem(FORMS, "generated", Generated())


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
    """A prepare stage that wrote the splits of the source of text."""
    folder = StageFolder(tmp_path_factory.mktemp("run"), "prepare")
    for seed, split in enumerate(("train", "validation", "test")):
        write_split(folder.path, split, make_texts(30, seed=seed), source="web")
    return folder


def opened(prepare, tmp_path, seed=5, **formula):
    web = {"kind": "files", "paths": ["texts"]}
    plain = DataConfig.model_validate({"sources": {"web": web}})
    sources = {"made": Formula(**formula), **(plain.sources or {})}
    data = plain.model_copy(update={"sources": sources})
    prepared = PreparedData(data, prepare, PretrainDataConfig(), stage_kind="pretrain")
    return open_pretrain_data(prepared, SampleSettings(tmp_path, LENGTH, seed))


def digests(feed, *steps, ranks=1):
    """Hash the batches of steps as so many ranks read them, prefetching."""
    found = []
    for rank in range(ranks):
        loader = Loader(feed, micro_batch_size=3, dp_rank=rank, dp_size=ranks, prefetch=2)
        batches = loader.batches(*steps)
        found.append([batch.digest for batch in batches])
    return [sum(parts) % 2**32 for parts in zip(*found, strict=True)]


def test_any_ranks_read_the_same_batches_and_a_restored_run_goes_on(prepare, tmp_path):
    data = opened(prepare, tmp_path)
    assert data.validation.keys() == {"web", "made"}
    feed = Feed(data.train, SCHEDULE, 5)
    whole = digests(feed, 0, STEPS)
    assert len(set(whole)) == STEPS
    assert digests(feed, 0, STEPS, ranks=4) == whole
    again = Feed(opened(prepare, tmp_path).train, SCHEDULE, 5)
    again.restore(feed.state(), 4)
    assert digests(again, 4, STEPS) == whole[4:]
    other = Feed(opened(prepare, tmp_path, factor=11).train, SCHEDULE, 5)
    assert digests(other, 0, STEPS) != whole
    with pytest.raises(DataError, match="source 'made': found other shards"):
        other.restore(feed.state(), 4)


def test_each_step_tells_its_documents_and_each_document_its_steps(prepare, tmp_path):
    feed = Feed(opened(prepare, tmp_path).train, SCHEDULE, 5)
    consumed = feed.plan.consumed_by_steps(STEPS)
    sources = {name: SeenSource.of(feed.streams[name], consumed[name]) for name in consumed}
    ledger = Ledger(feed.plan, sources)
    steps = [ledger.parts_of_step(step) for step in range(STEPS)]
    by_step = sorted(part for parts in steps for part in parts if part.source == "made")
    by_document = sorted(
        part
        for document in range(sources["made"].tokens.num_documents)
        for part in ledger.parts_of_document("made", document, STEPS)
    )
    assert by_step == by_document
    assert {part.epoch for part in by_step} > {0}, "the source is read more than once"


def test_a_run_over_it_is_cut_and_goes_on_bit_for_bit(prepare, tmp_path):
    stage = make_stage(max_steps=10, checkpoint={"save_steps": 4}, eval={"eval_steps": 5})

    def begin(name):
        data = opened(prepare, tmp_path, vocab_size=61)
        assert SEQUENCE_LENGTH == LENGTH
        held_out = {"made": data.validation["made"]}
        return make_run(
            tmp_path / name, stage, held_out=held_out, train={"made": data.train["made"]}
        )

    whole = begin("whole")
    assert train(whole)[1] is Wish.NONE
    close(whole)
    first = begin("cut")
    yield_at(first, tmp_path / "cut", 6)
    close(first)
    (tmp_path / "cut" / "control" / "yield").unlink(missing_ok=True)
    last = begin("cut")
    assert train(last)[1] is Wish.NONE
    close(last)
    made = records(tmp_path / "whole")
    assert records(tmp_path / "cut") == made
    assert len({record["train/loss"] for record in made}) > 8
