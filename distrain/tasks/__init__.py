"""What a model is trained for; a recipe names it in ``training.task``."""

from distrain.config.tasks import CAUSAL_LM, PREFERENCE
from distrain.tasks.causal_lm import CausalLmTask
from distrain.tasks.preference import PreferenceTask
from distrain.tasks.task import Task

TASKS: dict[str, Task] = {CAUSAL_LM: CausalLmTask(), PREFERENCE: PreferenceTask()}
"""Next-token prediction: the mean cross-entropy over all target tokens. Preferences: the mean loss
of pairs of answers, with the settings that a stage brings (``TrainSetup.task``)."""
