import multiprocessing
import os
import threading
import time

import pytest

from distrain.runs.progress_page import (
    BUCKETS,
    PHASES,
    WAITS_FOR_THREAD,
    Page,
    PageWriter,
    bucket_of,
    edge_s,
    read_pages,
    started_ticks,
)


@pytest.fixture
def page(tmp_path):
    page = PageWriter()
    page.open(tmp_path, 3)
    return page


def only(folder):
    (found,) = read_pages(folder)
    return found


def test_a_page_says_where_the_rank_is(page, tmp_path):
    before = time.monotonic_ns()
    page.mark("data", 7)
    found = only(tmp_path)
    assert (found.rank, found.pid) == (3, os.getpid())
    assert found.started == started_ticks(os.getpid())
    assert found.host == os.uname().nodename[:64]
    assert (found.main.phase, found.main.step, found.main.waits) == ("data", 7, 0)
    assert before <= found.main.marked_ns <= time.monotonic_ns()
    assert found.save is None
    assert found.first_step is None
    page.mark("update")
    assert (only(tmp_path).main.phase, only(tmp_path).main.step) == ("update", 7)


def test_without_a_folder_every_mark_does_nothing():
    page = PageWriter()
    page.mark("data", 7)
    page.wait_begins()
    page.wait_ends()
    page.save_begins(1)
    page.mark_chunk()
    page.save_ends()
    page.be_judged(dumps=True)
    page.begin_steps(0)


def test_a_wait_is_counted_and_seen(page, tmp_path):
    page.mark("data", 1)
    page.wait_begins()
    assert (only(tmp_path).main.collectives, only(tmp_path).main.waits) == (1, 1)
    page.wait_ends()
    page.wait_begins(WAITS_FOR_THREAD)
    assert (only(tmp_path).main.collectives, only(tmp_path).main.waits) == (1, WAITS_FOR_THREAD)


def test_the_thread_that_saves_has_a_lane_of_its_own(page, tmp_path):
    def save():
        page.save_begins(5)
        page.mark()
        page.wait_begins()
        seen.append(only(tmp_path))
        page.wait_ends()
        page.save_ends()

    seen: list[Page] = []
    page.mark("data", 6)
    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    (found,) = seen
    assert (found.main.phase, found.main.step, found.main.waits) == ("data", 6, 0)
    assert found.save is not None
    assert (found.save.phase, found.save.step, found.save.collectives) == ("write", 5, 1)
    assert only(tmp_path).save is None


def test_durations_are_counted_but_for_the_first_two_steps_and_waits(page, tmp_path, monkeypatch):
    clock = [10**9]
    monkeypatch.setattr("distrain.runs.progress_page.time.monotonic_ns", lambda: clock[0])

    def step(number, took_ms):
        page.mark("forward_backward", number)
        clock[0] += took_ms * 10**6
        page.mark("update")
        page.wait_begins()
        clock[0] += 60 * 10**9  # for others
        page.wait_ends()

    page.begin_steps(4)
    for number in (4, 5):  # these compile
        step(number, 90_000)
    assert sum(map(sum, only(tmp_path).counts.values())) == 0
    for number in range(6, 106):
        step(number, 50)
    counts = only(tmp_path).counts
    assert sum(counts["forward_backward"]) == counts["forward_backward"][bucket_of(50 * 10**6)]
    assert sum(counts["forward_backward"]) == 100
    assert sum(counts["update"][: bucket_of(10**7)]) == sum(counts["update"])


@pytest.mark.parametrize("duration_ns", [0, 1, 1023, 5000, 10**6, 3 * 10**6, 7 * 10**9, 10**13])
def test_the_edge_of_a_bucket_is_at_most_a_quarter_above_what_is_in_it(duration_ns):
    edge_ns = edge_s(bucket_of(duration_ns)) * 1e9
    assert duration_ns < edge_ns <= max(1.25 * duration_ns + 1024, 4096)
    assert bucket_of(duration_ns) < BUCKETS


def test_buckets_grow_with_durations():
    buckets = [bucket_of(int(1024 * 1.1**power)) for power in range(200)]
    assert buckets == sorted(buckets)
    edges = [edge_s(bucket) for bucket in dict.fromkeys(buckets)]
    assert edges == sorted(set(edges))


def test_a_page_that_is_no_page_is_passed_over(page, tmp_path):
    (tmp_path / "4.page").write_bytes(b"half")
    assert [found.rank for found in read_pages(tmp_path)] == [3]


def child(folder):
    page = PageWriter()
    page.open(folder, 0)
    page.mark("data", 1)
    time.sleep(600)


def test_the_last_mark_of_a_killed_rank_stays(tmp_path):
    process = multiprocessing.get_context("forkserver").Process(target=child, args=(tmp_path,))
    process.start()
    while not (found := read_pages(tmp_path)) or found[0].main.phase != "data":
        time.sleep(0.01)
    process.kill()
    process.join()
    assert only(tmp_path).main.phase == "data"


def test_codes_are_never_moved():
    """A page of another order would be read as other phases; then PAGE_VERSION must change."""
    assert PHASES == (
        "import", "rendezvous", "restore", "data", "forward_backward", "update", "save", "write",
        "validation", "export", "ended", "prepare", "ranges", "evaluate",
    )  # fmt: skip
