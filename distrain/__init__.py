"""distrain: the runtime that carries a language model from raw text to a fine-tuned export.

``distrain.errors`` and ``distrain.config`` never import torch, so that the launcher can use them.
"""

__version__ = "0.1.0"
