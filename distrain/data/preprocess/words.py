"""One look at a text that all filters and sketches share."""


class TextView:
    """A text and what is computed from it once, when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text
