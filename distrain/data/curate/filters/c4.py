"""C4's heuristics (Raffel et al. 2020, JMLR 21, section 2.2), in the order of its published code.

A rule about a document (lorem ipsum, curly brackets) looks only at lines that no rule before it
dropped. C4's list of bad words, and its removal of repeated three-sentence spans, are not here.
"""

import re

from distrain.config.curation import C4Config
from distrain.data.curate.words import TextView

CITATIONS = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
END_MARKS = (".", "?", "!", '"')
ELLIPSIS = "..."
POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses cookies|use (?:of )?cookies")
# Single letters end no sentence: "J. Smith", "e.g. this".
SENTENCE_ENDS = re.compile(r"""(?<!\b\w)[.?!]+["')\]\u201d\u2019]*\s""")


def c4(view: TextView, config: C4Config) -> TextView | str | None:
    """Return the setting that the text fails, the lines that are left, or ``None`` for all."""
    watch = _Watch(view.text, config)
    kept = []
    for found in view.text.split("\n"):
        line = _keep_line(found.strip(), config)
        # What is dropped here is not judged below: it has no part in the text any more.
        if line is None:
            continue
        if watch.is_needed:
            verdict = watch.judge(line)
            if verdict == "drop":
                continue
            if verdict is not None:
                return verdict
        kept.append(line)
    if _has_fewer_sentences(kept, config.min_sentences):
        return "min_sentences"
    text = "\n".join(kept).strip()
    return None if text == view.text else TextView(text)


def _keep_line(line: str, config: C4Config) -> str | None:
    # A line no longer than a word may be holds no longer word: most lines are not split here.
    if len(line) > config.max_word_characters and _has_longer_word(line, config):
        return None
    if config.remove_citations and "[" in line:
        line = CITATIONS.sub("", line)
    if config.require_terminal_punctuation and (
        not line.endswith(END_MARKS) or line.endswith(ELLIPSIS)
    ):
        return None
    return line if len(line.split()) >= config.min_words_per_line else None


def _has_longer_word(line: str, config: C4Config) -> bool:
    return max(map(len, line.split())) > config.max_word_characters


class _Watch:
    """The rules about the content of lines, of which most texts need none at all."""

    def __init__(self, text: str, config: C4Config) -> None:
        # Once over the whole text: for most of them no line has to be looked at for these rules.
        text = text.lower()
        self.lorem_ipsum = config.reject_lorem_ipsum and "lorem ipsum" in text
        self.javascript = config.remove_javascript and "javascript" in text
        self.curly_bracket = config.reject_curly_bracket and "{" in text
        self.policy = config.remove_policy and POLICY.search(text) is not None
        self.is_needed = self.lorem_ipsum or self.javascript or self.curly_bracket or self.policy

    def judge(self, line: str) -> str | None:
        """Return ``drop`` for the line, the setting for which the document goes, or ``None``."""
        lower = line.lower()
        if self.lorem_ipsum and "lorem ipsum" in lower:
            return "reject_lorem_ipsum"
        if self.javascript and "javascript" in lower:
            return "drop"
        if self.curly_bracket and "{" in line:
            return "reject_curly_bracket"
        return "drop" if self.policy and POLICY.search(lower) else None


def _has_fewer_sentences(lines: list[str], least: int) -> bool:
    """Count no further than needed: each line is a sentence at least."""
    count = len(lines)
    for line in lines:
        if count >= least:
            return False
        count += len(SENTENCE_ENDS.findall(line))
    return count < least
