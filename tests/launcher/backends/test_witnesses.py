import json
import os

from distrain.runs.folder import RunFolder
from distrain.runs.progress_page import PageWriter, read_pages
from launcher.backends.incidents import WatchedStage
from launcher.backends.watchdog import Situation
from launcher.backends.witnesses import Witness, read_witnesses


def test_a_node_adds_its_ranks_once_to_an_incident_that_another_one_has_found(tmp_path):
    run, pages = RunFolder(tmp_path / "run"), tmp_path / "pages"
    pages.mkdir()
    found, sees = (WatchedStage(run, "train", node, 2) for node in (1, 0))
    found.folder.incident(1).parent.mkdir(parents=True)  # of an earlier attempt
    PageWriter().open(pages, 0)
    there = read_pages(pages)
    situation = Situation(there, {}, there[0].main.marked_ns + 10**9, 0, is_alone=False)
    witness = Witness(sees, pages)
    witness.look(there, situation)
    assert read_witnesses(found, 1, 0.0) == []
    found.folder.incident(2).parent.mkdir()
    witness._looked_s = 0.0
    witness.look(there, situation)
    (told,) = read_witnesses(found, 2, 5.0)
    assert (told["node"], told["ranks"][0]["pid"], told["ranks"][0]["age_s"]) == (0, os.getpid(), 1)
    assert (found.folder.incident(2).parent / "0.page").exists()
    written = found.folder.incident(2).with_name("node-0.json")
    written.write_text(json.dumps({"node": "as it was"}))
    witness._looked_s = 0.0
    witness.look(there, situation)
    assert read_witnesses(found, 2, 0.0) == [{"node": "as it was"}]
