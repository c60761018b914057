"""Who is blamed for an attempt that failed on several nodes, from how each rank ended."""

import os
import sys

import pytest
import torch
import torch.distributed as dist

from distrain.fault.consequence import is_of_others
from distrain.runs.folder import RunFolder
from launcher.backends.blame import FailureKind, NodeFailure, blame
from launcher.backends.incidents import WatchedStage
from launcher.backends.processes import Child
from launcher.backends.watched import Watched
from tests.ranks import exit_codes

RANK = """
import os, signal, sys, time
from distrain.fault import page as fault
from distrain.fault.page import page

fault.open_page()
page.mark("update", 3)
how = sys.argv[1]
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "waits":
    time.sleep(600)
if how == "done":
    page.mark("ended")
    sys.exit(0)
page.say_failure(how)
sys.exit(1)
"""


def failed(**kinds: FailureKind) -> list[NodeFailure]:
    return [NodeFailure(node, kind) for node, kind in kinds.items()]


@pytest.mark.parametrize(
    ("failures", "blamed"),
    [
        (failed(a="met", b="gone"), "b"),
        (failed(a="hung", b="met"), "a"),
        (failed(a="raised", b="met", c="met"), "a"),
        (failed(a="raised", b="hung"), "b"),
        (failed(a="met", b="silent"), "b"),
        (failed(a="met", b="ended"), "b"),
        # Who was first cannot be told, or would fail anywhere.
        (failed(a="raised", b="raised"), None),
        (failed(a="gone", b="gone", c="met"), None),
        (failed(a="met", b="met"), None),
        (failed(a="refused", b="met"), None),
        ([], None),
    ],
)
def test_the_gravest_of_one_node_is_to_blame(failures, blamed):
    for order in (failures, failures[::-1]):
        found = blame(order, nodes=3)
        assert (found.node if found else None) == blamed


def test_several_ranks_of_one_node_are_one_node():
    assert blame([NodeFailure("a", "gone", 1), NodeFailure("a", "gone", 3)], 2) is not None


@pytest.mark.parametrize(
    ("kind", "is_blamed"), [("hung", True), ("gone", True), ("raised", False), ("ended", False)]
)
def test_an_only_node_is_not_blamed_for_what_may_be_the_recipes_fault(kind, is_blamed):
    assert (blame(failed(a=kind), nodes=1) is not None) is is_blamed


def start(folder, how):
    place = WatchedStage(RunFolder(folder), "train", node=0, nodes=2)
    env = os.environ | {"RANK": "1"}
    return Watched(lambda env: Child([sys.executable, "-c", RANK, how], env, None), env, place)


@pytest.mark.parametrize(
    ("how", "kind"), [("killed", "gone"), ("raised", "raised"), ("met", "met"), ("done", None)]
)
def test_how_a_rank_ended_is_read_from_its_page(tmp_path, how, kind):
    ranks = start(tmp_path, how)
    while not ranks.wait(1):
        pass
    ranks.close()
    assert (ranks.failure and (ranks.failure.kind, ranks.failure.rank)) == (kind and (kind, 1))


def test_a_rank_that_is_killed_for_anothers_sake_has_not_failed(tmp_path):
    ranks = start(tmp_path, "waits")
    assert not ranks.wait(0.5)
    ranks.kill()
    while not ranks.wait(1):
        pass
    ranks.close()
    assert ranks.failure is None


def lose_the_peer():
    if dist.get_rank() == 1:
        os._exit(1)
    try:
        dist.all_reduce(torch.ones(3))
    except RuntimeError as error:
        os._exit(10 + is_of_others(error))


def test_what_gloo_says_of_a_lost_peer_is_told_from_an_error_of_the_ranks_own(tmp_path):
    """The words are torch's, and may change: here they come from two real ranks."""
    assert exit_codes(tmp_path, 2, lose_the_peer) == [11, 1]
    assert not is_of_others(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_of_others(ValueError("gloo"))
