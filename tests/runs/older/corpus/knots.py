"""Words that describe a braid, and what can be done to them."""


def inverse(word):
    """Return the braid that undoes this one: backwards, with each crossing turned over."""
    return [-crossing for crossing in reversed(word)]


def reduce(word):
    """Cancel each crossing that is followed at once by its own inverse."""
    kept: list[int] = []
    for crossing in word:
        if kept and kept[-1] == -crossing:
            kept.pop()
        else:
            kept.append(crossing)
    return kept


def permutation(word, strands):
    """Return where each strand ends, whatever it passes over or under."""
    places = list(range(strands))
    for crossing in word:
        n = abs(crossing) - 1
        places[n], places[n + 1] = places[n + 1], places[n]
    return places


def writhe(word):
    """Return the crossings of one kind less those of the other."""
    return sum(1 if crossing > 0 else -1 for crossing in word)
