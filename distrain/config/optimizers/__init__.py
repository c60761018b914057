"""Sections of layer 8, one an optimizer, each with what is known of it without torch.

``distrain.optim`` holds the other half of each, under the same name.
"""

from distrain.config.optimizers.elementwise import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    LionConfig,
    RmspropConfig,
    SgdConfig,
)
from distrain.config.optimizers.matrices import AdafactorConfig, AdamW8bitConfig, MuonConfig
from distrain.config.optimizers.optimizer import Kept, OptimizerConfig, ParameterRule

__all__ = [
    "OPTIMIZER_SECTIONS",
    "AdafactorConfig",
    "AdagradConfig",
    "AdamConfig",
    "AdamW8bitConfig",
    "AdamWConfig",
    "Kept",
    "LionConfig",
    "MuonConfig",
    "OptimizerConfig",
    "ParameterRule",
    "RmspropConfig",
    "SgdConfig",
    "elementwise_optimizers",
]

OPTIMIZER_SECTIONS: dict[str, type[OptimizerConfig]] = {
    "adamw": AdamWConfig,
    "adam": AdamConfig,
    "sgd": SgdConfig,
    "rmsprop": RmspropConfig,
    "adagrad": AdagradConfig,
    "lion": LionConfig,
    "muon": MuonConfig,
    "adafactor": AdafactorConfig,
    "adamw_8bit": AdamW8bitConfig,
}
"""Name -> section; the first is taken where a recipe names none."""


def elementwise_optimizers() -> list[str]:
    """Return the names of the optimizers that ZeRO takes."""
    return [name for name, section in OPTIMIZER_SECTIONS.items() if section.kept.elementwise]
