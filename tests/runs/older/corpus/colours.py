"""Colours as three numbers between nothing and everything."""


def parse(text):
    """Read a colour such as #ff8800 into red, green and blue from 0 to 255."""
    text = text.lstrip("#")
    return tuple(int(text[n : n + 2], 16) for n in (0, 2, 4))


def mix(first, second, part):
    """Return a colour on the way from the first to the second."""
    return tuple(round(a + (b - a) * part) for a, b in zip(first, second, strict=True))


def luminance(colour):
    """Return how bright the eye finds a colour, from 0 to 1."""
    red, green, blue = (channel / 255 for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ink_on(paper):
    """Choose black or white ink, whichever can be read better on this paper."""
    return (0, 0, 0) if luminance(paper) > 0.5 else (255, 255, 255)
