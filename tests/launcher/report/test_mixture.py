import pytest

from distrain.data.samples.schedule import SamplePlan, Schedule
from launcher.report.data import RunData, StageRecords
from launcher.report.mixture import mixture_tables, read_segments, samples_read
from launcher.report.page import write_report
from tests.launcher.report.runs import curated_result, curated_run, data_record
from tests.launcher.report.test_corpus import cells, text_of

STEP = {"data/first_sample": 8 * 149, "data/num_samples": 8}


def tables(record, *, last_step=STEP, settings=None, result=None):
    given = {"needs": ["prepare"], **(settings or {})}
    steps = [last_step] if last_step else []
    stage = StageRecords("pretrain", kind="pretrain", settings=given, data=record, steps=steps)
    prepare = StageRecords("prepare", kind="prepare", result=result or curated_result())
    return mixture_tables(stage, RunData("run", [prepare, stage]))


def one_source(**changes):
    segment = {"first_step": 0, "first_sample": 0, "batch_size": 8, "weights": {"web": 1.0}}
    return data_record(schedule=[segment | changes])


def test_schedule_says_which_weights_hold_for_which_steps():
    assert cells(tables(data_record()), "Schedule") == [
        ("steps", "first sample", "batch size", "web", "code"),
        ("1 to 100", "0", "8", "3 (75.0%)", "1 (25.0%)"),
        ("101 to 300", "800", "8", "0.2 (20.0%)", "0.8 (80.0%)"),
    ]


def test_epochs_planned_and_read_follow_the_schedule():
    # 10,000 and 5,000 samples of 64 tokens in an epoch; 800 + 1600 are planned, 800 + 400 read.
    rows = cells(tables(data_record()), "Epochs of each source")
    assert rows == [
        ("source", "train tokens", "epochs planned", "epochs read", "tokens read", "share"),
        ("web", "640,001", "0.0920", "0.0680", "43.5k", "56.7%"),
        ("code", "320,001", "0.296", "0.104", "33.3k", "43.3%"),
    ]


@pytest.mark.parametrize("end", [0, 1, 800, 2400, 200_000])
def test_samples_of_a_source_are_those_that_the_run_draws(end):
    record = data_record()
    stage = StageRecords("pretrain", data=record)
    read = samples_read(read_segments(stage), end)
    drawn = SamplePlan(42, Schedule.from_json(record["schedule"])).consumed(end)
    assert sum(read.values()) == pytest.approx(end)
    assert read == pytest.approx(drawn, abs=40)


def test_weights_by_size_are_exact_epochs_without_any_prepare_stage():
    record = one_source(weights={"web": 600, "code": 200}, by_size=True)
    rows = cells(tables(record, result={"sources": {}}), "Epochs of each source")
    assert [row[:4] for row in rows[1:]] == [
        ("web", "\N{EN DASH}", "3.00", "1.50"), ("code", "\N{EN DASH}", "3.00", "1.50")
    ]  # fmt: skip


def test_one_source_without_changes_needs_no_schedule():
    assert [table.title for table in tables(one_source())] == ["Epochs of each source"]


def test_source_that_comes_later_has_no_weight_before():
    record = data_record()
    del record["schedule"][0]["weights"]["code"]
    assert cells(tables(record), "Schedule")[1][-2:] == ("3 (100%)", "\N{EN DASH}")


def test_stage_that_has_made_no_step_has_read_nothing():
    rows = cells(tables(data_record(), last_step=None), "Epochs of each source")
    assert rows[1][2:] == ("0.0920", "0", "0", "\N{EN DASH}")


def test_many_sources_are_put_together():
    weights = {f"source_{n:02}": 1.0 for n in range(40)}
    header, row = cells(tables(one_source(weights=weights)), "Schedule")
    assert header[-1] == "28 other sources"
    assert row[-1] == "70.0%"


def test_packing_that_pads_is_mentioned():
    best_fit = {"data": {"packing": "best_fit"}}
    assert "Padding" in tables(data_record(), settings=best_fit)[1].note
    assert "Padding" not in tables(data_record())[1].note


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": None},
        {"schedule": []},
        {"schedule": ["web"]},
        {"schedule": [{"first_step": 0}]},
        {"max_steps": None, "schedule": [None]},
    ],
)
def test_schedule_of_another_shape_is_left_out(changes):
    assert tables(data_record(**changes)) == []


@pytest.mark.parametrize("weights", [None, {}, {"web": "all"}, {"web": 0}, {"web": -1, "code": 2}])
def test_weights_of_another_shape_are_left_out(weights):
    assert tables(one_source(weights=weights)) == []


def test_stages_that_need_each_other_are_no_endless_search():
    stage = StageRecords("pretrain", settings={"needs": "pretrain"}, data=data_record())
    assert len(mixture_tables(stage, RunData("run", [stage]))) == 2


def test_page_of_a_run_in_the_middle_shows_schedule_and_epochs(tmp_path):
    text = text_of(write_report(curated_run(tmp_path / "run")).read_text())
    assert "101 to 300 800 8 0.2 (20.0%) 0.8 (80.0%)" in text
    assert "code 320,001 0.296 0.168" in text


def test_the_data_of_a_stage_are_its_own_and_not_those_of_the_model_it_starts_from():
    from launcher.report.mixture import _train_tokens

    def prepared(name, tokens):
        sources = {"main": {"tokens": {"train": tokens}}}
        return StageRecords(name, "prepare", result={"sources": sources})

    needs = {"anneal": ["pretrain", "clean"], "longer": "pretrain", "pretrain": ["prepare"]}
    stages = [prepared("prepare", 5), prepared("clean", 7)]
    stages += [StageRecords(name, "pretrain", settings={"needs": n}) for name, n in needs.items()]
    run = RunData("run", stages)
    by_name = {stage.name: stage for stage in stages}
    found = {name: _train_tokens(by_name[name], run) for name in needs}
    assert found == {"anneal": {"main": 7}, "longer": {"main": 5}, "pretrain": {"main": 5}}
