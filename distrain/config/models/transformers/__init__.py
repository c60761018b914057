"""Families of ``transformers`` without torch: the section of a recipe, and a table of its keys."""

from distrain.config.models.transformers.section import TransformersConfig

__all__ = ["TransformersConfig"]
