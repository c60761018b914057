import json
import os
from typing import Any

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.progress_page import PageWriter, read_pages
from launcher.backends.incidents import WatchedStage
from launcher.backends.watchdog import Situation
from launcher.backends.witnesses import Witness, blame, read_witnesses


def test_a_node_adds_its_ranks_once_to_an_incident_that_another_one_has_found(tmp_path):
    run, pages = RunFolder(tmp_path / "run"), tmp_path / "pages"
    pages.mkdir()
    found, sees = (WatchedStage(run, "train", node, 2) for node in (1, 0))
    found.folder.incident(1).parent.mkdir(parents=True)  # of an earlier attempt
    PageWriter().open(pages, 0)
    there = read_pages(pages)
    situation = Situation(there, {}, there[0].main.marked_ns + 10**9, 0, is_alone=False)
    witness = Witness(sees, pages)
    witness.look(situation)
    assert read_witnesses(found, 1, 0.0) == []
    found.folder.incident(2).parent.mkdir()
    witness._looked_s = 0.0
    witness.look(situation)
    (told,) = read_witnesses(found, 2, 5.0)
    assert (told["node"], told["ranks"][0]["pid"], told["ranks"][0]["age_s"]) == (0, os.getpid(), 1)
    assert (found.folder.incident(2).parent / "0.page").exists()
    written = found.folder.incident(2).with_name("node-0.json")
    written.write_text(json.dumps({"node": "as it was"}))
    witness._looked_s = 0.0
    witness.look(situation)
    assert read_witnesses(found, 2, 0.0) == [{"node": "as it was"}]
    taken: list[int] = []
    witness._claim(taken)
    assert taken == [], "there is one for this attempt"
    Witness(sees, pages)._claim(taken)
    assert taken == [3]


def seen(rank, phase, age_s, *, state="S", waits=False, collectives=44):
    return {
        "rank": rank, "pid": 1, "phase": phase, "step": 16, "age_s": age_s,
        "collectives": collectives, "waits": waits, "state": state, "line": f"of {rank}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("other", "rank"),
    [
        (seen(1, "data", 4.1, state="T"), 1),
        (seen(1, "data", 4.1), 1),  # before the phase in which the finder's rank is late
        (seen(1, "update", 4.1, state="T"), 1),
        (seen(1, "data", 0.3), 0),  # it goes on
        (seen(1, "data", 4.1, waits=True), 0),
        (seen(1, "update", 4.1), 0),
    ],
)
def test_of_all_nodes_the_rank_that_keeps_the_rest_waiting_is_named(other, rank):
    mine = seen(0, "forward_backward", 4.3)
    incident: Any = {
        "node": 0, "host": "a", "rank": 0, "phase": "forward_backward", "step": 16, "age_s": 4.3,
        "limit_s": 4.0, "why": "no mark", "line": "of 0", "ranks": [mine],
    }  # fmt: skip
    whole = blame(incident, [{"node": 1, "host": "b", "ranks": [other]}])
    assert (whole["rank"], whole["node"], whole["host"]) == (rank, rank, "ab"[rank])
    assert (whole["line"], whole["phase"]) == (f"of {rank}", (mine, other)[rank]["phase"])
    assert ("rank 0 on node 0 waits for it" in whole["why"]) == bool(rank)
    assert whole["others"]
