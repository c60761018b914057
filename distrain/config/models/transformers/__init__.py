"""Families of transformers: the section of a recipe, the form of their ``config.json``."""

from distrain.config.models.transformers.section import TransformersConfig

__all__ = ["TransformersConfig"]
