"""Small games with words."""

from collections import Counter


def anagrams(word, dictionary):
    """List the words that have the same letters, the word itself left out."""
    letters = sorted(word)
    return [other for other in dictionary if other != word and sorted(other) == letters]


def changes(first, second):
    """Count the letters in which two words of one length differ."""
    return sum(a != b for a, b in zip(first, second, strict=True))


def ladder(start, goal, dictionary):
    """Return the shortest way from word to word in which one letter changes at a time."""
    ways = [[start]]
    seen = {start}
    while ways:
        way = ways.pop(0)
        if way[-1] == goal:
            return way
        for word in dictionary:
            if word not in seen and changes(word, way[-1]) == 1:
                seen.add(word)
                ways.append([*way, word])
    return None


def can_spell(word, tiles):
    """Tell whether a word can be laid with the tiles in hand, blanks included."""
    missing = Counter(word) - Counter(tiles)
    return missing.total() <= tiles.count("_")


def longest(words):
    """Return the longest word; of equal ones, the one that comes first in the alphabet."""
    return min(words, key=lambda word: (-len(word), word))
