import html
import json
import re

import pytest

from distrain.runs.records import write_json
from launcher.report.corpus import corpus_figures, prepare_tables, read_sources, source_tables
from launcher.report.data import RunData, StageRecords, read_run
from launcher.report.page import MAX_BYTES, render, write_report
from launcher.report.rejections import EXAMPLES_BYTES, counts_chart, counts_charts, examples_shown
from tests.launcher.report.runs import (
    HOSTILE_TEXTS,
    RunWriter,
    curated_result,
    curated_run,
    rejections,
)


def prepared(result, **fields):
    return StageRecords("prepare", kind="prepare", state="done", result=result, **fields)


def of_source(**counts):
    (source,) = read_sources(prepared({"sources": {"web": counts}}))
    return source


def cells(tables, title):
    (table,) = (table for table in tables if table.title == title)
    return [table.header, *table.rows]


def text_of(page):
    body = re.sub(r"<(style|script)>.*?</\1>", " ", page, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", body.replace("<wbr>", ""))
    return html.unescape(re.sub(r"[ \n]+", " ", text))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return curated_run(tmp_path_factory.mktemp("runs") / "curated")


@pytest.fixture(scope="module")
def page(run):
    path = write_report(run)
    assert path.stat().st_size < MAX_BYTES
    return path.read_text()


def test_every_document_is_in_the_bar_of_its_source():
    charts, note = counts_charts(prepared(curated_result()))
    assert [chart.title for chart in charts] == ["All sources", "web", "code"]
    assert [chart.read for chart in charts] == [
        "1,500 documents", "1,200 documents", "300 documents"
    ]  # fmt: skip
    web = charts[1]
    assert [(part.label, part.documents, part.share) for part in web.parts] == [
        ("kept", "1,000", "83.3%"),
        ("rejected", "199", "16.6%"),
        ("broken", "1", "0.1%"),
    ]
    assert [part.width for part in web.parts[:2]] == pytest.approx([83.3, 16.6], abs=0.7)
    assert web.parts[1].at == web.parts[0].width
    assert note == ""


def test_reasons_are_bars_in_the_order_of_their_counts():
    chart = counts_charts(prepared(curated_result()))[0][1]
    assert [(part.label, part.style, part.documents) for part in chart.reasons] == [
        ("gopher_quality.min_words", "rejected", "150"),
        ("duplicate", "rejected", "48"),
        ("contaminated", "rejected", "1"),
        ("not_utf8", "broken", "1"),
    ]
    assert [part.width for part in chart.reasons[:2]] == [100, 32]
    assert all(part.width > 0 for part in chart.reasons)


def test_bars_stay_inside_their_track_however_small_a_part_is():
    source = of_source(kept={"train": 10**9}, rejected={"a": 1}, broken={"b": 1})
    chart = counts_chart(source)
    assert all(part.width >= 0.75 for part in chart.parts)
    ends = [part.at + part.width for part in chart.parts]
    assert [*(part.at for part in chart.parts), 100] == pytest.approx([0, *ends], abs=0.01)
    assert [part.share for part in chart.parts] == [">99.9%", "<0.1%", "<0.1%"]


def test_many_reasons_are_cut_and_the_rest_is_counted():
    rejected = {f"filter.setting_{n:02}": 100 - n for n in range(40)}
    chart = counts_chart(of_source(rejected=rejected))
    assert [part.label for part in chart.reasons] == list(rejected)[:16]
    rest = sum(list(rejected.values())[16:])
    assert chart.note == f"24 rarer reasons: {rest:,} documents."


def test_one_source_has_one_chart_and_no_table_of_its_own():
    result = curated_result()
    del result["sources"]["code"]
    charts, _ = counts_charts(prepared(result))
    assert [chart.title for chart in charts] == ["Documents"]
    titles = [table.title for table in source_tables(prepared(result))]
    assert titles == ["Quality of kept documents"]


def test_a_source_of_which_nothing_was_read_is_listed_but_not_drawn():
    result = curated_result()
    result["sources"]["none"] = {"read": 0, "kept": {"train": 0}, "rejected": {}, "broken": {}}
    titles = [chart.title for chart in counts_charts(prepared(result))[0]]
    assert titles == ["All sources", "web", "code"]
    rows = cells(source_tables(prepared(result)), "Sources")
    assert rows[-1][:3] == ("none", "train", "0")


def test_tables_hold_documents_tokens_and_text_of_every_split_and_source():
    stage = prepared(curated_result())
    splits = cells(prepare_tables(stage), "Splits")
    assert splits[:2] == [
        ("split", "documents", "tokens", "text"), ("train", "1,150", "960,002", "12.4 MiB")
    ]  # fmt: skip
    rows = cells(source_tables(stage), "Sources")[1:]
    assert rows[0] == ("web", "train", "900", "640,001", "8.6 MiB", "66.7%")
    assert rows[1][:2] == ("", "validation")
    assert rows[3] == ("code", "train", "250", "320,001", "3.8 MiB", "33.3%")


def test_tokens_of_a_split_that_is_made_on_the_fly_are_unknown():
    result = curated_result()
    for source in result["sources"].values():
        del source["tokens"]["train"]
    result["splits"]["train"]["tokens"] = None
    stage = prepared(result)
    assert cells(prepare_tables(stage), "Splits")[1][2] == "\N{EN DASH}"
    rows = cells(source_tables(stage), "Sources")
    assert (rows[1][3], rows[1][5]) == ("\N{EN DASH}", "\N{EN DASH}")
    (tokens,) = (figure for figure in corpus_figures(stage) if figure.label == "tokens")
    assert tokens.note == "without train: on the fly"


def test_quality_columns_are_rows_of_quantiles():
    rows = cells(source_tables(prepared(curated_result())), "Quality of kept documents, web")
    assert rows == [
        ("column", "mean", "1%", "50%", "99%"), ("words", "274", "18", "153", "1,692")
    ]  # fmt: skip


def test_labels_say_what_is_wrong_with_them():
    (table,) = (t for t in prepare_tables(prepared(curated_result())) if t.title == "Labels, web")
    assert table.rows == (("good", "900", "90.6%"), ("<b>bad</b>", "93", "9.4%"))
    assert "7 documents without a label. 2 documents whose text" in table.note


def test_counts_are_shown_before_the_stage_is_done():
    sources = curated_result()["sources"]
    web = {key: sources["web"][key] for key in ("read", "kept", "rejected", "broken")}
    corpus = {
        "sources": {"web": web | {"text_bytes": {"train": 2048}}},
        "findings": {"web": {"quality": sources["web"]["quality"]}},
    }
    stage = StageRecords("prepare", kind="prepare", state="running", corpus=corpus)
    assert corpus_figures(stage)[0].value == "1,200"
    train = cells(prepare_tables(stage), "Splits")[1]
    assert train == ("train", "900", "\N{EN DASH}", "2.0 KiB")
    assert len(source_tables(stage)) == 1


def test_results_that_tell_no_sources_apart_are_one_source():
    result = {"documents": 9, "dropped": {"empty": 1}, "splits": {"train": {"documents": 9}}}
    charts, _ = counts_charts(prepared(result))
    assert [part.share for part in charts[0].parts] == ["90.0%", "10.0%"]


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"sources": {}},
        {"sources": ["web"]},
        {"sources": {"web": None}},
        {"sources": {"web": {"read": "many", "kept": [1], "rejected": {"a": None}, "broken": 3}}},
        {"sources": {"web": {"quality": {"words": {"quantiles": {"low": 1}}}, "labels": [1]}}},
        {"sources": {"web": {"read": 3, "kept": {"train": -1}, "tokens": {"train": None}}}},
        {"sources": {"web": {"read": float("nan"), "kept": {"train": float("inf")}}}},
    ],
)
def test_counts_of_another_shape_cost_only_their_part(result):
    run = RunData("odd", [prepared(result, rejections=[{}, {"text": 1, "path": None}])])
    assert "All 1 stage done" in render(run)


def test_page_shows_charts_tables_and_examples(page):
    text = text_of(page)
    assert "web 1,200 documents read" in text
    assert "kept 1,000 83.3%" in text
    assert "gopher_quality.min_words 150 12.5%" in text
    assert "not_utf8 broken 1 0.1%" in text
    assert "web/<i>0</i>.txt" in text
    assert "Nothing of it could be read as text." in text
    assert "Empty, or white space only." in text


def test_rejected_text_cannot_become_markup(page):
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "<i>0" not in page
    assert "&lt;script&gt;alert(&#39;hostile&#39;)" in page
    assert page.count("<details") == page.count("</details>")
    assert page.count("<pre") == page.count("</pre>")


def test_rejected_text_acts_on_nothing(page):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", page)
    shown = r"bell \x07, escape \x1b[31m, nul \x00, to the left \u202eesrever, half a pair \ud800"
    assert shown in page


def test_long_texts_are_cut(page):
    assert "x" * 300 + "…" in page
    assert "x" * 301 not in page
    stage = prepared(curated_result(), rejections=rejections("web", "empty", ("\n" * 400,)))
    (group,), _ = examples_shown(stage)
    assert (group.examples[0].text or "").count("\n") == 8


def test_the_end_of_a_long_name_is_shown():
    record = {"source": "web", "reason": "empty", "path": "a/" * 500 + "end.txt", "text": ""}
    (group,), _ = examples_shown(prepared(curated_result(), rejections=[record]))
    assert group.examples[0].path.startswith("…")
    assert group.examples[0].path.endswith("/end.txt")
    assert len(group.examples[0].path) == 160


def test_examples_stand_in_the_order_of_the_counts(run):
    (stage, *_) = read_run(run).stages
    groups, note = examples_shown(stage)
    assert [(group.reason, group.documents, len(group.examples)) for group in groups] == [
        ("gopher_quality.min_words", "150", 3),
        ("duplicate", "48", 3),
        ("not_utf8", "1", 1),
        ("empty", "5", 1),
    ]
    assert note == ""


def test_examples_of_every_reason_come_before_a_second_one():
    reasons = {f"reason_{n}": 100 - n for n in range(60)}
    records = [
        record for reason in reasons for record in rejections("web", reason, ("é" * 300,) * 3)
    ]
    result = {"sources": {"web": {"rejected": reasons}}}
    groups, note = examples_shown(prepared(result, rejections=records))
    counts = [len(group.examples) for group in groups]
    assert (len(groups), note) == (60, "")
    assert counts == sorted(counts, reverse=True)
    assert 60 < sum(counts) < 180


def test_page_stays_small_however_many_sources_and_reasons_there_are(tmp_path):
    writer = RunWriter(tmp_path / "large", max_steps=5000)
    writer.steps("pretrain", 1, 1, 5000)
    names = [f"source_{n:03}" for n in range(300)]
    reasons = {f"gopher_repetition.max_duplicate_{n}gram_fraction": n + 1 for n in range(40)}
    source = curated_result()["sources"]["web"] | {"rejected": reasons}
    writer.done("prepare", {"sources": dict.fromkeys(names, source)})
    with writer.run.stage("prepare").rejections.open("w") as stream:
        for name in names:
            for reason in reasons:
                for record in rejections(name, reason, ("<" * 400,) * 4):
                    stream.write(json.dumps(record) + "\n")
    page = write_report(writer.run).read_text()
    assert len(page.encode()) < MAX_BYTES
    assert page.count("&lt;" * 300) * 1200 < EXAMPLES_BYTES
    text = text_of(page)
    assert "288 sources more without a chart." in text
    assert "260 sources more in result.json." in text
    assert re.search(r"No room for examples of 11,\d+ more reasons", text)


def test_damaged_rejections_are_named(tmp_path):
    run = curated_run(tmp_path / "damaged")
    with run.stage("prepare").rejections.open("a") as stream:
        stream.write('no json\n{"source": "web", "rea')
    (run.stage("prepare").corpus).write_text("[1]")
    page = write_report(run).read_text()
    damage = re.findall(r'class="damage">Could not be read: ([^<:]*):', page)
    assert damage == ["prepare/corpus.json", "prepare/rejections.jsonl"]


def test_half_a_pair_in_any_record_does_not_stop_the_report(tmp_path):
    writer = RunWriter(tmp_path / "pair")
    writer.event("failed", "prepare", attempt=1, reason="file caf\udce9.txt")
    write_json(writer.run.stage("prepare").error, {"message": "caf\udce9.txt"})
    assert r"caf\udce9.txt" in write_report(writer.run).read_text()


def test_report_of_a_real_prepare_stage_accounts_for_every_document(tmp_path):
    from distrain.config.recipe import PrepareStage
    from distrain.runs.folder import RunFolder
    from distrain.stages.prepare import prepare

    sentence = "the side{} of the table{} and to have it with that point be {}. "
    texts = ["".join(sentence.format(n * m, m, n + m) for m in range(9)) for n in range(60)]
    texts += [texts[0], "<script>no words</script>", HOSTILE_TEXTS[2]]
    web, code = tmp_path / "web.jsonl", tmp_path / "code.jsonl"
    web.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "no json\n")
    code.write_text("".join(json.dumps({"text": f"code {text}"}) + "\n" for text in texts[:40]))
    settings = {
        "sources": {
            name: {"kind": "files", "paths": [str(path)]}
            for name, path in (("web", web), ("code", code))
        },
        "curation": {"filters": {"gopher_quality": {"min_words": 20}}},
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "quality": True,
        "workers": 1,
    }
    stage = {"kind": "prepare", "data": settings, "tokenizer": {"vocab_size": 300}}
    run = RunFolder(tmp_path / "real")
    run.root.mkdir()
    run.resolved.write_text(json.dumps({"stages": {"prepare": stage}}))
    folder = run.stage("prepare")
    result = prepare(PrepareStage.model_validate(stage), folder)
    during = text_of(write_report(run).read_text())  # no result yet
    write_json(folder.result, result)
    after = text_of(write_report(run).read_text())
    for text in (during, after):
        assert "web 64 documents read kept 60 93.8% rejected 2 3.1% broken 2 3.1%" in text
        assert "duplicate 1 1.6%" in text
        assert "not_json broken 1 1.6%" in text
        assert "code 40 documents read kept 40 100%" in text
        assert "Quality of kept documents, web" in text
        assert "<script>no words</script>" in text
    assert f"web train {result['sources']['web']['kept']['train']} " in after
    assert f"{result['sources']['web']['tokens']['train']:,}" in after
