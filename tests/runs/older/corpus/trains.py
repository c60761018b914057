"""A timetable, and the way through it."""


def minutes(clock):
    """Turn a time such as 14:05 into minutes after midnight."""
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)


def clock(number):
    """Turn minutes after midnight into a time such as 14:05."""
    return f"{number // 60 % 24:02d}:{number % 60:02d}"


def next_train(trains, station, now):
    """Return the first train that leaves a station at this minute or later, or none."""
    leaving = [train for train in trains if train.get(station, -1) >= now]
    return min(leaving, key=lambda train: train[station], default=None)


def earliest(trains, start, goal, now):
    """Return when one can be at the goal, if one starts now.

    Trains are taken in the order in which they leave; a station once reached stays reached.
    """
    reached = {start: now}
    legs = sorted((leave, a, arrive, b) for a, leave, b, arrive in trains)
    for leave, a, arrive, b in legs:
        if reached.get(a, leave + 1) <= leave:
            reached[b] = min(arrive, reached.get(b, arrive))
    return reached.get(goal)
