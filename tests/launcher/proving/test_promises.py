"""What must follow a fault; each case has the control that must not pass."""

import pytest

from distrain.runs.progress_page import PageWriter, read_pages
from launcher.proving.blows import BLOWS
from launcher.proving.promises import HANGS, PROMISES, unkept
from launcher.proving.rounds import Struck, makes_steps

HUNG = {"event": "hung", "rank": 1}
ASIDE = {"event": "quarantined"}
AGAIN, SAME = (1, 2), (2, 2)


@pytest.mark.parametrize(
    ("kind", "kept", "broken"),
    [
        ("kill-rank", (AGAIN, []), (SAME, [])),
        ("hang", (AGAIN, [HUNG]), (AGAIN, [])),  # it crashed, say, by which nothing was found
        ("spin", (AGAIN, [ASIDE, HUNG]), (AGAIN, [HUNG | {"rank": 0}])),  # another rank is blamed
        ("lock", (AGAIN, [HUNG]), (SAME, [HUNG])),
        ("corrupt", (AGAIN, [ASIDE]), (AGAIN, [HUNG])),  # it was loaded all the same
        ("slow", (SAME, []), (AGAIN, [])),
    ],
)
def test_an_equal_end_is_not_enough(kind, kept, broken):
    assert unkept(kind, "rank 1 in phase data, step 68", *kept) == []
    assert len(unkept(kind, "rank 1 in phase data, step 68", *broken)) == 1


def test_of_faults_that_met_only_restarts_are_asked_for():
    assert unkept("hang", "rank 1 in phase data", AGAIN, [], is_alone=False) == []
    assert unkept("hang", "rank 1 in phase data", SAME, [HUNG], is_alone=False) == [
        "another attempt"
    ]


def test_promises_are_those_of_faults_that_there_are():
    assert PROMISES.keys() <= BLOWS.keys()
    assert PROMISES.keys() >= HANGS


def test_no_fault_comes_before_the_one_before_it_is_over(tmp_path):
    """Else two hangs are laid in one place, and the second one is found in twice the time."""
    writer = PageWriter()
    writer.open(tmp_path, 0)
    assert not makes_steps(read_pages(tmp_path), None), "it starts"
    writer.begin_steps(0)
    pages = read_pages(tmp_path)
    assert makes_steps(pages, None)
    assert not makes_steps(pages, Struck("spin", "rank 0 at step 68", 67, 1.0))
    assert makes_steps(pages, Struck("spin", "rank 0 at step 68", 67, 1.0, lost_s=5.3))
    assert makes_steps(pages, Struck("slow", "rank 0 in phase data", 67, 1.0))
