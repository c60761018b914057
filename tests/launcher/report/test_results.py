"""What is said of several stages of a kind."""

from launcher.report.data import RunData, StageRecords
from launcher.report.results import evaluate_tables, origin_tables, summary


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
    assert answers.note.endswith("With and without the adapters of stage sft2.")
    del result["measured"]  # as an older version left it
    documents, answers = evaluate_tables(stage("evaluate", "evaluate", result=result))
    assert documents.note == ""
    assert "adapters" not in answers.note
