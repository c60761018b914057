"""No optimizer is known by name outside of its own files and the two lists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ITS_OWN = (
    "distrain/config/optimizers/",  # sections and their list
    "distrain/config/recipe.py",  # the default
    "distrain/config/reading/foreign_names.py",  # the words of other tools
    "distrain/optim/",  # the other half of each, and their list
)
NAMES = re.compile(r"adam|exp_avg|optimizer_steps", re.IGNORECASE)
FILES = [
    path
    for package in ("distrain", "launcher")
    for path in sorted((ROOT / package).rglob("*.py"))
    if not str(path.relative_to(ROOT)).startswith(ITS_OWN)
]


def named_in(text: str) -> list[str]:
    return NAMES.findall(text)


def test_no_other_file_names_one():
    assert FILES
    found = {str(path.relative_to(ROOT)): named_in(path.read_text()) for path in FILES}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize("text", ['state["exp_avg"]', "import AdamW", "extra['optimizer_steps']"])
def test_a_name_is_found(text):
    assert named_in(text)
