import subprocess

import pytest

from distrain.runs.sums import SUMS, find_damage, write_sums


@pytest.fixture
def folder(tmp_path):
    for name in ("a.json", "two words.bin"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "inside").mkdir()
    write_sums(tmp_path)
    return tmp_path


def test_a_whole_folder_passes_here_and_with_the_usual_tool(folder):
    assert find_damage(folder) is None
    check = ["sha256sum", "--check", "--strict", SUMS]
    assert subprocess.run(check, cwd=folder, check=False, capture_output=True).returncode == 0


def test_every_change_is_named(folder):
    (folder / "a.json").write_bytes(b"a.jsoN")
    assert find_damage(folder) == "a.json does not match its digest"
    (folder / "a.json").unlink()
    assert find_damage(folder) == "a.json is missing"


def test_what_somebody_added_does_not_count(folder):
    (folder / "README.md").touch()
    assert find_damage(folder) is None


def test_a_folder_of_another_tool_has_nothing_to_compare(folder):
    (folder / SUMS).unlink()
    assert find_damage(folder) is None


def test_a_list_in_the_other_mode_of_the_usual_tool_is_read(folder):
    (folder / SUMS).write_bytes((folder / SUMS).read_bytes().replace(b"  ", b" *"))
    assert find_damage(folder) is None
    (folder / "a.json").write_bytes(b"a.jsoN")
    assert find_damage(folder) == "a.json does not match its digest"


@pytest.mark.parametrize("content", [b"\xff", b"no digest  a.json\n", b"0" * 64 + b"  ../a.json\n"])
def test_a_list_that_cannot_be_read_is_damage(folder, content):
    (folder / SUMS).write_bytes(content)
    assert find_damage(folder) == f"{SUMS} cannot be read"


def test_a_list_written_again_is_that_of_the_files(folder):
    (folder / "a.json").write_bytes(b"other")
    write_sums(folder)
    assert find_damage(folder) is None
