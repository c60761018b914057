"""Notes of a keeper of bees."""


def brood_days(kind):
    """Return the days from egg to bee: of a queen, a worker or a drone."""
    return {"queen": 16, "worker": 21, "drone": 24}[kind]


def varroa_per_day(counted, days):
    """Return how many mites fell in a day, of those counted on the board."""
    if days <= 0:
        raise ValueError("the board lay there for no day")
    return counted / days


def needs_feed(weight, empty_weight, month):
    """Tell whether a hive is too light for the winter that is coming."""
    wanted = 16 if month >= 8 else 5
    return weight - empty_weight < wanted


def honey(frames, weight_of_frame=1.8):
    """Return what the full frames will give; a half capped one is left to the bees."""
    return sum(weight_of_frame for frame in frames if frame["capped"] > 0.8)
