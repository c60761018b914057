"""A stair that can be climbed without a thought."""


def rises(height, wanted=17.5):
    """Return how many steps a stair has, and how high each of them is, in centimetres."""
    count = max(1, round(height / wanted))
    return count, height / count


def tread(rise, stride=63.0):
    """Return how deep a step must be, for two rises and a tread make a stride."""
    return stride - 2 * rise


def length(height, wanted=17.5):
    """Return the length of the whole stair on the floor; the last step is the floor above."""
    count, rise = rises(height, wanted)
    return (count - 1) * tread(rise)


def is_comfortable(rise, depth):
    """Tell whether a foot finds enough room and a knee is not lifted too far."""
    return 15 <= rise <= 19 and depth >= 26 and 60 <= 2 * rise + depth <= 66
