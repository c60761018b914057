"""Ranks that never begin their page."""

import os
import subprocess
import sys
import time

import pytest

from distrain.runs.progress_page import PAGES, PageWriter, read_pages
from launcher.backends.arrivals import Arrivals, find_ranks
from launcher.backends.limits import Limits, Settings

S = 10**9
BEGUN = 10**12


def come(folder, *ranks, count=4):
    for rank in ranks:
        page = PageWriter()
        page.open(folder, rank, count)
        page.be_judged(dumps=False)
    return read_pages(folder)


def judge(arrivals, pages, seconds, since_s=0.0, settings: Settings | None = None):
    limits = Limits(settings or Settings())
    now_ns, since_ns = BEGUN + int(seconds * S), BEGUN + int(since_s * S)
    found = arrivals.judge(pages, now_ns, since_ns, limits)
    return None if found is None else found[0]


def test_a_rank_that_does_not_come_has_as_long_as_the_others_took_and_more(tmp_path):
    arrivals = Arrivals(tmp_path, BEGUN)
    assert judge(arrivals, [], 9) is None
    pages = come(tmp_path, 4, 5, 7)  # of the second node
    assert judge(arrivals, pages, 10) is None
    assert judge(arrivals, pages, 129) is None
    halt = judge(arrivals, pages, 131)  # ten seconds after the start came the others
    assert halt is not None
    assert (halt.page.rank, halt.lane.phase, halt.limit_s) == (6, "import", 120)
    assert "has not begun its work; 3 of 4 ranks have" in halt.why
    assert judge(arrivals, pages, 131, since_s=20) is None, "whoever looks was suspended"


def test_where_none_comes_the_first_limit_holds(tmp_path):
    arrivals = Arrivals(tmp_path, BEGUN)
    assert judge(arrivals, [], 1799) is None
    halt = judge(arrivals, [], 1801)
    assert halt is not None
    assert halt.page.rank == -1
    halt = judge(arrivals, [], 91, settings=Settings(first_s=90))
    assert halt is not None


def test_a_rank_that_has_a_page_and_does_not_come_further_is_named_by_it(tmp_path, monkeypatch):
    monkeypatch.setattr("distrain.runs.progress_page.time.monotonic_ns", lambda: BEGUN)
    arrivals, pages = Arrivals(tmp_path, BEGUN), come(tmp_path, 0, count=2)
    PageWriter().open(tmp_path, 1, 2)
    assert judge(arrivals, pages, 0) is None
    halt = judge(arrivals, pages, 61)
    assert halt is not None
    assert (halt.page.rank, halt.page.pid) == (1, os.getpid())


def test_a_limit_of_the_user_for_imports_holds_for_ranks_that_never_come(tmp_path):
    settings = Settings(limits_s={"import": 300})
    arrivals = Arrivals(tmp_path, BEGUN)
    assert judge(arrivals, [], 299, settings=settings) is None
    halt = judge(arrivals, [], 301, settings=settings)
    assert halt is not None
    assert (halt.is_set, halt.limit_s) == (True, 300)
    pages = come(tmp_path, 0, count=2)
    assert judge(arrivals, pages, 400, settings=settings) is None
    assert judge(arrivals, pages, 699, settings=settings) is None
    assert judge(arrivals, pages, 701, settings=settings) is not None


def test_a_rank_that_goes_on_importing_is_not_missing(tmp_path, monkeypatch):
    seconds = 0.0
    monkeypatch.setattr(
        "distrain.runs.progress_page.time.monotonic_ns", lambda: BEGUN + int(seconds * S)
    )
    arrivals, pages, late = Arrivals(tmp_path, BEGUN), come(tmp_path, 0, count=2), PageWriter()
    late.open(tmp_path, 1, 2)
    late.mark("import")
    assert judge(arrivals, pages, 0) is None
    for seconds in range(0, 300, 30):
        late.mark()
        assert judge(arrivals, pages, seconds + 29) is None
    assert judge(arrivals, pages, 270 + 61) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_of_a_rank_without_a_page_is_found(tmp_path):
    env = os.environ | {PAGES: str(tmp_path), "RANK": "1"}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=env, stdin=subprocess.PIPE) as one:
        deadline = time.monotonic() + 10
        while find_ranks(tmp_path) != {1: one.pid}:
            assert time.monotonic() < deadline
        pages = come(tmp_path, 0, count=2)
        arrivals = Arrivals(tmp_path, BEGUN)
        judge(arrivals, pages, 0)
        halt = judge(arrivals, pages, 61)
        assert halt is not None
        assert (halt.page.rank, halt.page.pid) == (1, one.pid)
        assert halt.page.started > 0
