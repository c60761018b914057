"""Pages of ranks that were never started, under a clock of their own."""

from distrain.runs.progress_page import STEP_PHASES, Page, PageWriter, read_pages
from launcher.backends.limits import Settings
from launcher.backends.watchdog import Halt, Situation, Watchdog

S = 10**9
DOG = Watchdog(Settings())


class Ranks:
    """Pages of some ranks under a clock of their own."""

    def __init__(self, folder, monkeypatch, count=2, first=0):
        self.folder, self.now = folder, 10**12
        monkeypatch.setattr("distrain.runs.progress_page.time.monotonic_ns", lambda: self.now)
        self.pages = [PageWriter() for _ in range(count)]
        for rank, page in enumerate(self.pages):
            page.open(folder, rank, count)
            page.be_judged(dumps=False)
            page.begin_steps(first)
        self.since = self.now

    def mark(self, phase, step, *ranks):
        for rank in ranks or range(len(self.pages)):
            self.pages[rank].mark(phase, step)

    def wait(self, *ranks):
        for rank in ranks or range(len(self.pages)):
            self.pages[rank].wait_begins()

    def go_on(self, *ranks):
        for rank in ranks or range(len(self.pages)):
            self.pages[rank].wait_ends()

    def step(self, number, times=None):
        for phase in STEP_PHASES:
            self.mark(phase, number)
            self.now += int((times or {}).get(phase, 0.01) * S)
            self.wait()
            self.go_on()

    def judge(self, sights=None, is_alone=True, dog: Watchdog = DOG) -> Halt | None:
        pages = read_pages(self.folder)
        return dog.judge(Situation(pages, sights or {}, self.now, self.since, is_alone))

    def pages_read(self) -> list[Page]:
        return read_pages(self.folder)


def blamed(halt: Halt | None):
    return None if halt is None else (halt.page.rank, halt.lane.phase)
