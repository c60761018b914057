"""What is said of several stages of a kind."""

from launcher.report.data import RunData, StageRecords
from launcher.report.results import evaluate_tables, origin_tables, sft_tables, summary


def stage(name, kind, **options):
    scores = [{"train/global_step": 10, "eval/loss": options.pop("loss", 2.0)}]
    return StageRecords(name, kind, state="done", last_step=10, scores=scores, **options)


def test_each_stage_of_a_kind_is_told_by_its_name():
    answers = {"eval_loss_base": 3.0, "eval_loss": 2.0}
    run = RunData(
        "run",
        [
            stage("pretrain", "pretrain", loss=5.0),
            stage("anneal", "pretrain", loss=4.5),
            stage("sft", "sft", result=answers),
            stage("sft2", "sft", result=answers),
        ],
    )
    text = summary(run)
    assert "Validation loss 5.000 after 10 steps of pretrain." in text
    assert "Validation loss 4.500 after 10 steps of anneal." in text
    assert "3.000 before and 2.000 after sft." in text
    assert "3.000 before and 2.000 after sft2." in text
    run.stages.pop(1)
    assert "after 10 steps." in summary(run)


def test_what_a_stage_was_made_from_is_listed_in_order():
    built_on = {"pretrain": {"step": 20, "product": "ab"}, "anneal": {"step": 1000}}
    (table,) = origin_tables(stage("sft", "sft", built_on=built_on))
    assert table.rows == (("pretrain", "20", "ab"), ("anneal", "1,000", "\N{EN DASH}"))
    assert origin_tables(stage("pretrain", "pretrain")) == []
    (torn,) = origin_tables(stage("sft", "sft", built_on={"pretrain": "nothing"}))
    assert torn.rows == (("pretrain", "\N{EN DASH}", "\N{EN DASH}"),)


def test_the_test_split_says_whose_figures_they_are():
    result = {
        "measured": {"documents": "anneal", "answers": "sft2"},
        "documents": {"loss": 2.0},
        "answers": {"pairs": 7, "loss": 1.0, "loss_base": 2.0},
    }
    documents, answers = evaluate_tables(stage("evaluate", "evaluate", result=result))
    assert documents.note == "Measured with the model of stage anneal."
    assert answers.note.startswith("7 pairs. ")
    assert answers.note.endswith("Tuned by stage sft2.")
    del result["measured"]  # as an older version left it
    documents, answers = evaluate_tables(stage("evaluate", "evaluate", result=result))
    assert documents.note == ""
    assert "Tuned" not in answers.note


def test_answers_stand_beside_the_base_with_their_intervals():
    answers = {
        "examples": 120,
        "gain": {"value": 0.42, "low": 0.35, "high": 0.5},
        "prompt_gap": {"value": 0.01, "low": -0.02, "high": 0.04},
    }
    figures = {"eval_loss_base": 3.0, "eval_loss": 2.58, "answers": answers}
    tuned = stage("sft", "sft", result=figures)
    table = next(table for table in sft_tables(tuned) if table.header[-1] == "95 % interval")
    assert table.rows[0][1:] == ("+0.420", "+0.350 to +0.500")
    assert table.rows[1][1:] == ("+0.010", "\N{MINUS SIGN}0.020 to +0.040")
    said = "120 examples: better than the base by 0.42 nats a token (0.35 to 0.50); what the prompt"
    assert table.note.startswith(said)
    assert table.note in summary(RunData("run", [tuned]))
    measured = stage("evaluate", "evaluate", result={"answers": {"loss": 2.58, **answers}})
    assert evaluate_tables(measured)[-1] == table
    own = stage("evaluate", "evaluate", result={"data": {"loss": 2.58, **answers}})
    assert [each.title.partition(",")[0] for each in evaluate_tables(own)] == [
        "Own data",
        table.title,
    ]
    # Of a version that computed none, and damaged.
    for torn in ({}, {"gain": 3}, {"gain": {"value": None}}):
        assert sft_tables(stage("sft", "sft", result={"answers": torn})) is not None


def test_tasks_that_an_evaluate_stage_asked_have_a_table():
    tasks = {"arc": {"acc": 0.25, "acc_stderr": 0.03}, "wiki": {"word_perplexity": 21.5}}
    (table,) = evaluate_tables(stage("evaluate", "evaluate", result={"tasks": tasks}))
    assert table.rows == (
        ("arc", "acc", "0.250", "0.0300"),
        ("wiki", "word_perplexity", "21.5", "\N{EN DASH}"),
    )
