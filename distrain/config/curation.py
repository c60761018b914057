"""Sections of layer 2's curation: what is done to one document before it is split and tokenized."""

from distrain.config.section import Section


class CurationConfig(Section):
    """Per-document curation; everything but normalisation is off unless it is named."""

    normalize: bool = True
    """NFC, one kind of line end, no control characters, no white space before a line end."""
