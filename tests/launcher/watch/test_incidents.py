from distrain.runs.folder import RunFolder
from distrain.runs.incidents import read_incidents
from distrain.runs.records import write_json
from launcher.watch.logs import found_of

FOUND = {
    "time": "2026-01-01T00:00:00.000Z",
    "kind": "hang",
    "attempt": 1,
    "host": "n7",
    "node": 0,
    "rank": 3,
    "phase": "data",
    "step": 11,
    "age_s": 6.2,
    "limit_s": 5.0,
    "why": "no mark",
    "line": "/x/loader.py:7 in read",
    "action": "",
    "ranks": [],
}


def test_an_incident_is_told_in_one_line_and_one_cut_short_is_passed_over(tmp_path):
    stage = RunFolder(tmp_path).stage("train")
    assert found_of(stage) == []
    write_json(stage.incident(2), FOUND)
    write_json(stage.incident(10), FOUND | {"phase": "write", "line": ""})
    stage.incident(3).parent.mkdir()
    stage.incident(4).parent.mkdir()
    stage.incident(4).write_text("{")
    assert found_of(stage) == [
        "incident 2: rank 3 on n7 in phase data, step 12, 6.2 s (limit 5.0 s), "
        f"at /x/loader.py:7 in read; no mark; stacks in {stage.incidents / '2'}",
        "incident 10: rank 3 on n7 in phase write, after step 11, 6.2 s (limit 5.0 s); "
        f"no mark; stacks in {stage.incidents / '10'}",
    ]
    assert [found["number"] for found in read_incidents(stage)] == [2, 10]
