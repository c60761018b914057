import pytest

from distrain.config.sources import HubSource
from distrain.data.sources import open_source
from distrain.errors import DataError
from tests.distrain.data.sources.samples import (
    EXPECTED,
    ROWS,
    json_lines,
    parquet_table,
    read_all,
    texts_and_labels,
)


def hub(path, **settings):
    section = {"kind": "hub", "path": str(path), "label_field": "label", **settings}
    return HubSource.model_validate(section)


def halves(folder, content_of, name):
    """Write ``ROWS`` as the two files of a dataset's folder."""
    (folder / "data").mkdir()
    for number, rows in enumerate((ROWS[:100], ROWS[100:])):
        file = folder / "data" / f"train-0000{number}-of-00002.{name}"
        file.write_bytes(content_of(rows))
    (folder / "data" / f"test-00000-of-00001.{name}").write_bytes(content_of(ROWS[:1]))


def test_a_saved_folder_is_read_in_the_order_of_its_rows(tmp_path):
    import datasets

    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one", num_shards=3)
    found = read_all(hub(tmp_path / "one"))
    assert texts_and_labels(found) == EXPECTED
    assert found[100].path == f"{tmp_path}/one/data-00001-of-00003.arrow:0"
    both = datasets.DatasetDict({"train": saved, "test": saved.select([5])})
    both.save_to_disk(tmp_path / "both")
    assert texts_and_labels(read_all(hub(tmp_path / "both"))) == EXPECTED
    assert texts_and_labels(read_all(hub(tmp_path / "both", split="test"))) == EXPECTED[5:6]
    with pytest.raises(DataError, match="no split valid; expected one of its splits: train, test"):
        read_all(hub(tmp_path / "both", split="valid"))


def test_parquet_of_a_dataset_is_read_by_row_groups(tmp_path):
    halves(tmp_path, parquet_table, "parquet")
    reader = open_source(hub(tmp_path), 1000)
    parts = reader.ranges(reader.files())
    assert len(parts) > 4
    assert all(part.stop is not None for part in parts)
    assert texts_and_labels(read_all(hub(tmp_path), 1000)) == EXPECTED
    assert texts_and_labels(read_all(hub(tmp_path, split="test"))) == EXPECTED[:1]


@pytest.mark.parametrize("range_bytes", [1000, 2**26])
def test_other_files_of_a_dataset_are_read_each_as_a_whole(tmp_path, range_bytes):
    halves(tmp_path, json_lines, "jsonl")
    found = read_all(hub(tmp_path), range_bytes)
    assert texts_and_labels(found) == EXPECTED
    assert found[100].path == f"{tmp_path}/data/train-00001-of-00002.jsonl:0"


def test_a_dataset_that_is_not_there_or_has_no_such_part_is_refused(tmp_path):
    halves(tmp_path, json_lines, "jsonl")
    with pytest.raises(DataError, match="no split valid; expected one of its splits: train, test"):
        read_all(hub(tmp_path, split="valid"))
    with pytest.raises(DataError, match=r"'body', while .* has label, text"):
        read_all(hub(tmp_path, text_field="body"))
    with pytest.raises(DataError, match="Correct path, name or revision"):
        read_all(hub(tmp_path, name="no_such_configuration"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: "):
        read_all(hub(tmp_path / "empty"))
