import numpy as np
import pytest

from distrain.data.corpus.cleaned import CleanDocument, CleanedWriter
from distrain.data.corpus.texts import train_texts
from distrain.data.curate.split import text_digest


@pytest.fixture
def ranges(tmp_path):
    """Three ranges, the second of twice the text; each third document is held out, one masked."""
    files, masks = [], []
    for number, count in enumerate((30, 60, 30)):
        path = tmp_path / f"{number}.parquet"
        with CleanedWriter(path) as writer:
            for n in range(count):
                text = f"{number}:{n:03} ääää"
                split = "test" if n % 3 == 2 else "train"
                size = len(text.encode())
                writer.add(CleanDocument(text, f"{n}", split, text_digest(text), size))
            writer.close()
        files.append(path)
        masks.append(np.zeros(count, np.uint8))
    masks[0][0] = 1
    return files, masks


def test_all_kept_train_texts_come_in_order(ranges):
    files, masks = ranges
    texts = list(train_texts(files, masks, 10**6))
    wanted = [
        f"{number}:{n:03} ääää"
        for number, count in enumerate((30, 60, 30))
        for n in range(count)
        if n % 3 != 2 and (number, n) != (0, 0)
    ]
    assert texts == wanted


@pytest.mark.parametrize("limit", [80, 400, 1000])
def test_of_too_much_text_each_range_gives_its_share_from_the_beginning(ranges, limit):
    files, masks = ranges
    whole = list(train_texts(files, masks, 10**6))
    texts = list(train_texts(files, masks, limit))
    assert sum(len(text.encode()) for text in texts) <= limit
    counts = [sum(text.startswith(f"{number}:") for text in texts) for number in range(3)]
    assert counts[1] >= max(counts[0], counts[2])
    assert limit < 400 or (all(counts) and counts[1] - 2 * counts[2] in (-1, 0, 1))
    for number in range(3):
        of_range = [text for text in whole if text.startswith(f"{number}:")]
        assert [text for text in texts if text.startswith(f"{number}:")] == of_range[
            : counts[number]
        ]
