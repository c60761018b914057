"""Tones by number, as on a keyboard."""

NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def frequency(key):
    """Return the frequency of a key in hertz; key 69 is the tone that orchestras tune to."""
    return 440.0 * 2 ** ((key - 69) / 12)


def name(key):
    """Name a key by its letter and its octave."""
    return f"{NAMES[key % 12]}{key // 12 - 1}"


def scale(root, steps):
    """Return the keys of a scale from its root and the steps between them."""
    keys = [root]
    for step in steps:
        keys.append(keys[-1] + step)
    return keys


def is_major(chord):
    """Tell whether three keys make a major chord, in whatever order they are given."""
    low, middle, high = sorted(chord)
    return (middle - low, high - middle) in {(4, 3), (3, 5), (5, 4)}
