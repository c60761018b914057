"""Lights on a coast, told apart by their rhythm."""


def parse(character):
    """Read a character such as "Fl(3) 15s" into kind, group and period."""
    head, _, period = character.partition(" ")
    kind, _, group = head.partition("(")
    return kind, int(group.rstrip(")") or 1), float(period.rstrip("s"))


def range_of_sight(height_of_light, height_of_eye):
    """Return the sea miles at which a light comes over the horizon."""
    return 2.08 * (height_of_light**0.5 + height_of_eye**0.5)


def is_lit(flashes, period, second):
    """Tell whether the lamp shines at a second; flashes are pairs of start and length."""
    now = second % period
    return any(start <= now < start + length for start, length in flashes)


def candidates(lights, kind, period):
    """Return the lights that could be the one that was timed, within half a second."""
    found = []
    for name, character in lights.items():
        known, _, seconds = parse(character)
        if known == kind and abs(seconds - period) <= 0.5:
            found.append(name)
    return found
