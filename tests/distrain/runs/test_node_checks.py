"""Which nodes are not fit, from what was measured on all of them."""

import pytest

from distrain.runs.node_checks import NodeResult, judge_nodes

NODES = ("a", "b", "c", "d")


def results(**changes):
    """Four like nodes, as they vary on a shared machine, but for what is changed of one."""
    found = {}
    for number, node in enumerate(NODES):
        found[node] = NodeResult(
            node,
            products={"cpu float32": 100.0 - 10 * number, "cuda:0 bfloat16": 700_000.0},
            link_mb_s=900.0 - 150 * number,
            clock_s=0.1 * number,
            open_files=20_000,
        )
    for node, change in changes.items():
        for name, value in change.items():
            setattr(found[node], name, value)
    return found


def test_nodes_that_differ_as_nodes_do_are_fit():
    assert judge_nodes(results(), NODES) == []


@pytest.mark.parametrize(
    ("change", "found", "is_grave"),
    [
        ({"products": {"cpu float32": 44.0}}, "44 GFLOP/s of matrix products (cpu float32)", False),
        ({"products": {"cuda:0 bfloat16": 3e5}}, "3e+05 GFLOP/s", False),
        ({"link_mb_s": 150.0}, "150 MB/s to its neighbors", False),
        ({"clock_s": -60.0}, "a clock that is -60.1 s off the others'", False),
        ({"open_files": 1024}, "at most 1024 open files", False),
        ({"wrong": ["1 of 9 matrix products wrong"]}, "1 of 9 matrix products wrong", True),
    ],
)
def test_the_one_that_is_not_is_named_with_what_was_found(change, found, is_grave):
    (problem,) = judge_nodes(results(c=change), NODES)
    assert problem.node == "c"
    assert found in problem.found
    assert problem.is_grave is is_grave
    assert str(problem).startswith("node c: found ")
    assert problem.remedy.endswith(".")


def test_what_is_a_little_less_is_no_problem():
    assert (
        judge_nodes(results(c={"products": {"cpu float32": 50.0}, "link_mb_s": 250.0}), NODES) == []
    )


def test_where_data_come_out_otherwise_the_node_that_has_part_in_most_of_it_is_unfit():
    found = results(a={"doubts": ["b"]}, c={"doubts": ["b"]})
    assert [problem.node for problem in judge_nodes(found, NODES)] == ["b"]
    found = results(a={"doubts": ["b"]})
    assert [problem.node for problem in judge_nodes(found, NODES)] == ["a", "b"], "either may be"


def test_only_a_node_without_a_result_is_so_unfit_that_nothing_begins():
    """One that has a result works; its import of torch may have taken longer than others waited."""
    found = results(a={"absent": ["c"]})
    del found["d"]
    problems = judge_nodes(found, NODES)
    assert [(one.node, one.is_grave, one.is_its_own) for one in problems] == [
        ("d", True, True),
        ("c", False, False),
    ]


def test_where_no_node_has_a_result_it_was_not_the_nodes_fault():
    assert judge_nodes({}, NODES) == []


def test_of_two_nodes_only_their_own_speed_tells_them_apart():
    two = {
        node: one
        for node, one in results(b={"link_mb_s": 1.0, "clock_s": 99.0}).items()
        if node < "c"
    }
    assert judge_nodes(two, NODES[:2]) == []
    two["b"].products = {"cpu float32": 20.0}
    assert [problem.node for problem in judge_nodes(two, NODES[:2])] == ["b"]


def test_a_record_of_another_version_is_read_as_far_as_it_is_known():
    assert NodeResult.read({"node": "a", "of_tomorrow": 3}).node == "a"
