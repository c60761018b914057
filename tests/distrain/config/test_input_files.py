"""Which file a path of a recipe names."""

import json
from pathlib import Path

import pytest

from distrain import evaluation
from distrain.config.input_files import local_path
from launcher.resources import resource_folder

GENERAL = "package:distrain/evaluation/general_chats.jsonl"


def test_a_file_of_a_package_is_found_wherever_that_is():
    folder = Path(evaluation.__file__).parent
    assert local_path(GENERAL) == str(folder / "general_chats.jsonl")


@pytest.mark.parametrize(
    "written", ["package:distrain/none.jsonl", "package:no_such_module/a", "package:os.path/a"]
)
def test_what_no_package_has_stays_as_it_was_written(written):
    assert local_path(written) == written


def test_the_chats_that_come_along_are_ten():
    rows = [json.loads(line) for line in Path(local_path(GENERAL)).read_text().splitlines()]
    assert len({row["prompt"] for row in rows}) == 10
    assert GENERAL in (resource_folder("recipes") / "smollm2-chat.yaml").read_text()
