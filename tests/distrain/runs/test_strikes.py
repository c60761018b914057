"""Strikes against nodes: kept, counted, forgotten, and who is left out for them."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.json_lines import read_records
from distrain.runs.strikes import (
    FORGET_DAYS,
    StrikeRules,
    add_strike,
    choose_excluded,
    count_strikes,
    describe_strikes,
    read_strikes,
    share_strikes,
)


def strike(run, node, times=1):
    for _ in range(times):
        add_strike(run, "pretrain", node, "gone", 3, "killed by SIGKILL")


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "mine")


def test_strikes_are_kept_and_told_of(run):
    strike(run, "b")
    with run.strikes.open("a") as file:
        file.write('{"node": "cut')  # by a crash
    strike(run, "b")
    assert [one.node for one in read_strikes(run.strikes)] == ["b", "b"]
    (line,) = describe_strikes(read_strikes(run.strikes))
    assert line == "node b: 2 strikes, the last: gone, rank 3 (killed by SIGKILL)"
    assert [event["event"] for event in read_records(run.events)] == ["strike", "strike"]


def test_a_node_is_forgiven_after_a_while(run):
    strike(run, "b")
    later = datetime.now(UTC) + timedelta(days=FORGET_DAYS, minutes=1)
    assert count_strikes(run, StrikeRules()) == {"b": 1}
    assert count_strikes(run, StrikeRules(), later) == {}


def test_other_runs_of_the_site_hold_one_strike_each_against_a_node(run, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    rules = StrikeRules(folder=str(site))
    for name, times in (("mine", 1), ("other", 5), ("third", 1)):
        one = RunFolder(tmp_path / "runs" / name)
        strike(one, "b", times)
        share_strikes(one, rules)
    (site / "broken.jsonl").write_text('no JSON\n{"node": "b"}\n' + json.dumps({"time": 3}) + "\n")
    assert count_strikes(run, rules) == {"b": 3}
    assert count_strikes(run, StrikeRules()) == {"b": 1}, "without the site, its own alone"


def test_an_error_of_the_ranks_own_is_not_held_against_a_node_by_other_runs(run, tmp_path):
    other, rules = RunFolder(tmp_path / "runs" / "other"), StrikeRules(folder=str(tmp_path))
    for kind in ("raised", "hung", "raised"):
        add_strike(other, "pretrain", f"of {kind}", kind, 0, "")
    share_strikes(other, rules)
    assert count_strikes(run, rules) == {"of hung": 1}
    assert count_strikes(other, rules) == {"of raised": 2, "of hung": 1}


@pytest.mark.parametrize(
    ("strikes", "usable", "needed", "chosen"),
    [
        ({"b": 2}, "abcd", 2, ["b"]),
        ({"b": 1}, "abcd", 2, []),
        ({"a": 2, "b": 3, "c": 2}, "abcd", 2, ["b", "a"]),  # the third would leave one
        ({"a": 2, "b": 3}, "ab", 2, []),
        ({"z": 9}, "ab", 1, []),  # not there
    ],
)
def test_the_worst_are_left_out_and_never_too_many(strikes, usable, needed, chosen):
    assert choose_excluded(strikes, 2, usable, needed) == chosen
    assert choose_excluded(strikes, 0, usable, needed) == [], "0: nobody is"
