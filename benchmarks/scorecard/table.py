"""The table of a scorecard, and its place in docs/reliability.md."""

import statistics
from pathlib import Path

from benchmarks.measuring import table
from benchmarks.scorecard.cases import CASES, ELSEWHERE, EXEMPT
from benchmarks.scorecard.state import State, Tally

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
NOTE = """\
Asked for: {draws} draws a case. A draw passes if its run ended as its twin, bit for bit, without an
orphan or a false alarm, and if what its kind promises followed: an incident that names the rank, a
checkpoint put aside, another attempt, or none of these. Spikes of 34c and 34d are of the loss
alone, for so small a model has others of its own. *Found*: how old the last mark was when the
watchdog acted. *Lost*: from the fault, so with the time to notice it, to the first step of the next
attempt, where no other fault came between. *Cold start*: from the command to the first step, median
of the same runs. Seconds; both depend on the load."""
BEGIN, END = "<!-- scorecard -->", "<!-- end of scorecard -->"


def text_of(state: State, draws: int) -> str:
    """Write what was seen; cases of which nothing was drawn are named as such."""
    rows = []
    for case in CASES:
        tally = state.tallies.get(case.number, Tally())
        demands = f"; {case.pass_}" if case.pass_ else ""
        rows.append([case.number, case.what + demands, *_figures(tally)])
    head = ["case", "fault, and what must be besides an equal end"]
    head += ["passed", "found: median, worst", "lost: median, worst", "cold start", "load"]
    others = [
        "| case | | where |",
        "|---|---|---|",
        *(f"| {number} | {what} | {where} |" for number, what, where in (*ELSEWHERE, *EXEMPT)),
    ]
    parts = [table(head, rows), NOTE.format(draws=draws), "Covered elsewhere, or not at all:"]
    return "\n\n".join([*parts, "\n".join(others)])


def write_page(text: str) -> None:
    """Put the table where docs/reliability.md has the one before."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _figures(tally: Tally) -> list[str]:
    if not tally.drawn:
        return ["not run", "", "", "", ""]
    return [
        f"{tally.passed}/{tally.drawn}",
        _median_and_worst(tally.found_s),
        _median_and_worst(tally.lost_s),
        f"{statistics.median(tally.starts_s):.1f}" if tally.starts_s else "",
        f"{statistics.median(tally.load):.1f}" if tally.load else "",
    ]


def _median_and_worst(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""
