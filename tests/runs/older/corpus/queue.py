"""People who wait, and how long."""

import heapq


class Counter:
    """A counter with several clerks; whoever comes first is served first."""

    def __init__(self, clerks):
        self.free_at = [0.0] * clerks
        heapq.heapify(self.free_at)

    def serve(self, arrival, duration):
        """Serve one who arrives at a time, and return how long they had to wait."""
        start = max(arrival, heapq.heappop(self.free_at))
        heapq.heappush(self.free_at, start + duration)
        return start - arrival

    def closes(self):
        """Return the time at which the last clerk can go home."""
        return max(self.free_at)


def mean_wait(arrivals, durations, clerks):
    """Return how long people wait on average with so many clerks."""
    counter = Counter(clerks)
    waits = [counter.serve(a, d) for a, d in zip(arrivals, durations, strict=True)]
    return sum(waits) / len(waits)


def clerks_needed(arrivals, durations, patience):
    """Return the fewest clerks with whom nobody waits longer than they would."""
    clerks = 1
    while mean_wait(arrivals, durations, clerks) > patience:
        clerks += 1
    return clerks
