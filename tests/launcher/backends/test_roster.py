"""Who has which place in a start of a job with spares, and who decides."""

import threading

import pytest

from distrain.runs.folder import NodeFiles
from distrain.runs.records import read_json, write_json
from launcher.backends.beats import Pulse, Watch
from launcher.backends.members import Members, Standing
from launcher.backends.orders import Orders
from launcher.backends.roster import fill_places, next_first, replaced
from launcher.backends.starting import NodeStarter
from launcher.backends.terms import Term


@pytest.mark.parametrize(
    ("before", "living", "first", "after"),
    [
        ((0, 1, 2), {0, 1, 2, 3}, 0, (0, 1, 2)),
        ((0, 1, 2), {0, 2, 3, 4}, 0, (0, 3, 2)),  # the others keep their places
        ((0, 1, 2), {0, 3, 4}, 0, (0, 3, 4)),
        ((0, 1, 2), {1, 2, 3}, 1, (1, 3, 2)),  # the next first node leaves its own place
        ((0, 1, 2), {2, 3, 4}, 2, (2, 3, 4)),
        ((0, 1), {2, 3}, 2, (2, 3)),  # and may come from the reserve
        ((0,), {1}, 1, (1,)),
        ((0, 1, 2), {0, 2}, 0, None),
        ((0, 1, 2), {1, 2}, 1, None),
    ],
)
def test_a_spare_has_the_place_of_a_node_that_is_gone(before, living, first, after):
    spares = [member for member in sorted(living) if member not in before]
    assert fill_places(before, living, first, spares) == after


def test_who_left_and_who_came_are_told_in_pairs():
    assert replaced((0, 1, 2), (1, 3, 2)) == [(0, 3)]
    assert replaced((0, 1, 2), (0, 1, 2)) == []


def test_the_lowest_member_that_lives_is_next():
    silent_s = {0: 100.0, 1: 70.0, 2: 3.0, 3: 0.0}
    assert next_first(silent_s, {0}, 60) == 2
    assert next_first(silent_s, {0, 2}, 60) == 3
    assert next_first(silent_s, {0, 2, 3}, 60) is None


def test_of_all_that_want_to_be_first_at_once_one_is(tmp_path):
    meeting, won = NodeFiles(tmp_path), list[int]()
    barrier = threading.Barrier(8)

    def want(member: int) -> None:
        barrier.wait()
        if Term(1, member, (0, 1), [0]).claim(meeting):
            won.append(member)

    threads = [threading.Thread(target=want, args=(member,)) for member in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    newest = Term.newest(meeting)
    assert (newest.number, newest.member, newest.gone) == (1, won[0], [0])
    assert [path.name for path in meeting.claim(1).parent.iterdir()] == ["1.json"]


def test_a_first_node_that_was_replaced_writes_where_nobody_reads(tmp_path):
    old, new = NodeFiles(tmp_path), NodeFiles(tmp_path).in_term(1)
    write_json(old.start, {"number": 7})
    assert read_json(new.start) is None
    assert old.word(3) == new.word(3)
    assert old.beat(3) == new.beat(3)


def test_members_are_given_up_for_good_until_too_few_are_left(tmp_path):
    meeting, orders = NodeFiles(tmp_path), Orders(2, 3, (), spares=1)
    watches = {member: Watch(meeting.beat(member)) for member in (1, 2)}
    standing = Standing(Term(), NodeStarter(0, print), Pulse(meeting.beat(0)), watches)
    members = Members(meeting, orders, standing)
    assert members.others(2) == [1]
    assert members.can_go_on(), "nobody is missed before the first start"
    members.give_up([1])
    assert not members.can_go_on(), "a spare that never came cannot take a place"
    watches[2].is_heard = True
    assert members.can_go_on()
    assert members.fill() == [(1, 2)]
    assert members.fill() == []
    assert members.others(2) == [2]
    members.give_up([2])
    assert not members.can_go_on()
