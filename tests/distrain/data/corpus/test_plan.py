import json

import pytest

from distrain.config.data import DataConfig
from distrain.data.corpus.plan import load_plan, make_plan, number_ranges, save_plan
from distrain.data.sources.ranges import InputFile, InputRange


@pytest.fixture
def config(tmp_path):
    for name, count in (("web", 50), ("notes", 3)):
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps({"text": f"{name} {n}"}) + "\n" for n in range(count))
        (tmp_path / name / "big.jsonl").write_text(lines)
        for number in range(4):
            (tmp_path / name / f"{number}.txt").write_text("small")
    sources = {
        name: {"kind": "files", "paths": [str(tmp_path / name)]} for name in ("web", "notes")
    }
    return DataConfig.model_validate({"sources": sources, "range_bytes": 200})


def test_a_plan_is_read_back_as_it_was(config, tmp_path):
    plan = make_plan(config, "settings")
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    assert list(plan.files) == ["web", "notes"], "in the order of the recipe"
    assert [planned.number for planned in plan.of_source("web")] == list(
        range(len(plan.of_source("web")))
    )
    assert len(plan.of_source("web")) > 3


def test_a_plan_of_another_version_is_none(config, tmp_path):
    path = tmp_path / "plan.json"
    assert load_plan(path) is None
    save_plan(make_plan(config, "settings"), path)
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    assert load_plan(path) is None


def test_rows_of_parts_add_up_and_titles_name_file_and_row(config):
    parts = [found for found in make_plan(config, "").of_source("web") if found.part.stop]
    assert len(parts) > 2
    first_rows = [found.part.first_row for found in parts]
    for found, following in zip(parts, first_rows[1:], strict=False):
        assert found.rows == following - found.part.first_row > 0
    assert parts[1].title.startswith(f"range {parts[1].number} of source web (")
    assert parts[1].title.endswith(f"big.jsonl from row {first_rows[1]})")
    assert parts[1].key == f"web/{parts[1].number:05d}"


def test_whole_files_and_the_end_of_a_file_have_no_number_of_rows():
    one, two = InputFile("a", 10, ""), InputFile("b", 20, "")
    parts = [InputRange((one,)), InputRange((two,), 0, 12), InputRange((two,), 12, None, 5)]
    planned = number_ranges("web", parts)
    assert [found.rows for found in planned] == [None, 5, None]
    assert [found.size_bytes for found in planned] == [10, 12, 20]
