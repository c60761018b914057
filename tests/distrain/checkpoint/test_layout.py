import pytest

from distrain.checkpoint.layout import Name, committed, free_name, remove_leftovers


@pytest.mark.parametrize("name", [Name(0), Name(100), Name(1234567), Name(100, 2)])
def test_a_name_is_read_back(name):
    assert Name.parse(str(name)) == name


@pytest.mark.parametrize(
    "text", ["step_100", "step_000100.0", "step_0000100", ".saving-step_000100-ab", "other"]
)
def test_other_names_are_not_ours(text):
    assert Name.parse(text) is None


def test_committed_are_listed_from_old_to_new_without_what_is_unfinished(tmp_path):
    for name in (Name(1000000), Name(200, 1), Name(200)):
        (tmp_path / str(name)).mkdir()
    (tmp_path / Name(300).hidden_for_saving()).mkdir()
    (tmp_path / Name(100).hidden_for_deleting()).mkdir()
    (tmp_path / "step_000400").touch()
    assert committed(tmp_path) == [Name(200), Name(200, 1), Name(1000000)]
    assert committed(tmp_path / "none") == []


def test_a_folder_is_never_written_twice(tmp_path):
    assert free_name(tmp_path, 7) == Name(7)
    (tmp_path / str(Name(7))).mkdir()
    assert free_name(tmp_path, 7) == Name(7, 1)


def test_leftovers_of_a_crash_are_removed_and_nothing_else(tmp_path):
    for name in (Name(300).hidden_for_saving(), Name(100).hidden_for_deleting(), "step_000200"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000200"]
