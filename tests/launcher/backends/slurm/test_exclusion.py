"""Which nodes a job is kept from, and how Slurm is told; on a real Slurm: ``tests/cluster``."""

import pytest

from distrain.runs.folder import RunFolder
from distrain.runs.strikes import StrikeRules, add_strike
from launcher.backends.slurm import exclusion
from launcher.backends.slurm.client import Answer


class Cluster:
    """Four nodes, a job on ``n[1-2]``, and answers as Slurm 22.05 gives them."""

    def __init__(self, down=(), excluded="(null)", refusals=0):
        self.down, self.excluded, self.refusals = down, excluded, refusals
        self.told = []

    def __call__(self, argv):
        if argv[0] == "sinfo":
            assert "--partition=p" in argv
            states = {n: "down*" if n in self.down else "mixed" for n in ("n1", "n2", "n3", "n4")}
            return Answer(0, "".join(f"{n}|{state}\n" for n, state in states.items()), "")
        if argv[1:3] == ["show", "hostnames"]:
            return Answer(0, {"n[1-2]": "n1\nn2\n", "n[3-4]": "n3\nn4\n"}[argv[3]], "")
        if argv[1] == "update":
            self.refusals -= 1
            if self.refusals >= 0:
                return Answer(1, "", "slurm_update error: Job is no longer pending execution\n")
            self.told.append(argv[2:])
            return Answer(0, "", "")
        return Answer(0, f"JobId=5 Partition=p NodeList=n[1-2] ExcNodeList={self.excluded} x=1", "")


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def strike(run, *nodes):
    for node in nodes:
        add_strike(run, "pretrain", node, "gone", 0, "")


def due(run, cluster, limit=2):
    return exclusion.Exclusion(run, "5", StrikeRules(limit), cluster).due("n[1-2]")


def test_a_node_over_the_limit_is_left_out_if_there_are_others(run):
    strike(run, "n2")
    assert due(run, Cluster()) == []
    strike(run, "n2")
    assert due(run, Cluster()) == ["n2"]
    assert due(run, Cluster(), limit=3) == []
    assert due(run, Cluster(down=("n3",))) == ["n2"]
    assert due(run, Cluster(down=("n3", "n4"))) == [], "the job would never start again"
    assert due(run, Cluster(excluded="n[3-4]")) == [], "of those it gets none either"


def test_nodes_of_other_jobs_alone_are_no_reason_to_leave(run):
    strike(run, "n3", "n3")
    assert due(run, Cluster()) == []


def test_slurm_is_told_again_until_the_job_waits_and_keeps_what_it_was_told_before(
    run, monkeypatch
):
    monkeypatch.setattr(exclusion, "PAUSE_S", 0)
    cluster = Cluster(excluded="n3", refusals=3)
    assert exclusion.Exclusion(run, "5", StrikeRules(), cluster).tell(["n2"]) == ""
    assert cluster.told == [["JobId=5", "ExcNodeList=n2,n3"]]
    monkeypatch.setattr(exclusion, "TELL_S", 0)
    refused = exclusion.Exclusion(run, "5", StrikeRules(), Cluster(refusals=99)).tell(["n2"])
    assert refused == "slurm_update error: Job is no longer pending execution"
