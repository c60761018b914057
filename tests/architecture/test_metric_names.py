"""What a task measures is named by the task alone; all else goes over the names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METRIC = re.compile(r"(train|eval)/(loss|perplexity)(/|$)")
DOCUMENTED = ROOT / "distrain" / "runs" / "records.py"
"""Lists the fields of a record, those of ``causal_lm`` among them."""
SOURCES = sorted(
    path
    for package in ("distrain", "launcher")
    for path in (ROOT / package).rglob("*.py")
    if path != DOCUMENTED
)


def metrics_spelled_in(source: str) -> set[str]:
    """Return the texts, wholes or parts of f-strings, that name a metric of one task."""
    return {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and METRIC.match(node.value)
    }


def test_no_file_but_the_list_of_fields_names_a_metric():
    found = {path.name: metrics_spelled_in(path.read_text()) for path in SOURCES}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("source", ["record['eval/loss']", "f'eval/loss/{source}'"])
def test_a_planted_name_is_found(source):
    assert metrics_spelled_in(source)
    assert not metrics_spelled_in("record['train/learning_rate']")
