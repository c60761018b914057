"""What a model is trained for; a recipe names it in ``training.task``."""

from distrain.config.tasks import CAUSAL_LM
from distrain.tasks.causal_lm import CausalLmTask
from distrain.tasks.task import Task

TASKS: dict[str, Task] = {CAUSAL_LM: CausalLmTask()}
