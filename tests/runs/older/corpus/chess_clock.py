"""A clock for two players who think."""


class Clock:
    """Seconds left on both sides; a move adds a little to the side that made it."""

    def __init__(self, seconds, bonus=0.0):
        self.left = [seconds, seconds]
        self.bonus = bonus
        self.turn = 0

    def press(self, spent):
        """End a move that took so many seconds, and give the turn to the other side."""
        self.left[self.turn] -= spent
        if self.left[self.turn] > 0:
            self.left[self.turn] += self.bonus
        self.turn = 1 - self.turn

    def flag(self):
        """Return the side whose time is over, or none while both have some."""
        for side, seconds in enumerate(self.left):
            if seconds <= 0:
                return side
        return None


def shown(seconds):
    """Write seconds as minutes and seconds, and the last ten with one decimal."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
