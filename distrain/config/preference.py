"""Sections of a stage that trains on preferences: the loss, its reference, and the loop."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distrain.config.section import Section
from distrain.config.tasks import PREFERENCE, TaskName
from distrain.config.training import TrainingConfig

PreferenceLoss = Literal["sigmoid", "ipo", "hinge"]


class PreferenceConfig(Section):
    """Layer 6 of preferences: what is made smaller of a chosen and a rejected answer."""

    loss: PreferenceLoss = "sigmoid"
    """``sigmoid``: DPO (arXiv 2305.18290, equation 7). ``ipo``: IPO (arXiv 2310.12036, equation
    17), of means over the tokens of an answer. ``hinge``: SLiC's (arXiv 2305.10425) on DPO's
    rewards."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How far the model is held to its reference: the more, the closer it stays."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that are taken to be the wrong way round (conservative DPO); of
    ``sigmoid``."""
    reference: Literal["precomputed", "live"] = "precomputed"
    """What the model said before this stage. ``precomputed``: of every pair once, before the first
    step, and kept. ``live``: by a second pass in each step, which leaves the adapters out."""

    @model_validator(mode="after")
    def _smoothing_is_of_sigmoid(self) -> Self:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(
                f"label_smoothing is of loss sigmoid; found loss {self.loss}: set it to 0"
            )
        return self


class PreferenceTrainingConfig(TrainingConfig):
    """Layer 11 of preferences: as everywhere, but that a sample is a pair of two answers."""

    task: TaskName = PREFERENCE
    """What the model is trained for. ``preference``: to prefer the chosen answer."""

    @model_validator(mode="after")
    def _probabilities_are_not_bent(self) -> Self:
        for name in ("label_smoothing", "z_loss"):
            if getattr(self.loss, name):
                raise ValueError(
                    f"loss.{name} changes what a token's loss is, and rewards are differences of "
                    f"log-probabilities; set loss.{name} to 0 (preference.label_smoothing is of "
                    "pairs)"
                )
        if self.max_tokens is not None:
            raise ValueError(
                "max_tokens counts rows of one length, and a pair is two answers of any; give "
                "max_steps or num_epochs"
            )
        return self
