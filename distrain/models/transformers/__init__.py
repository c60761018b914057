"""Families of ``transformers`` as single-device model code: their modules, our attention and loss.

``transformers`` is imported when such a model is built, and not before.
"""
