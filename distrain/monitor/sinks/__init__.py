"""Copies of the metrics for other tools. A sink may fail, hang or be absent; training goes on."""

from distrain.monitor.sinks.background import OpenWriter
from distrain.monitor.sinks.wandb import wandb_writer

SINKS: dict[str, OpenWriter] = {"wandb": wandb_writer}
"""By the name of their section under ``logging``; a section that is there switches its sink on."""
