"""Section of layer 10: tasks of the lm-evaluation-harness (``lm_eval``), by our forward pass."""

from typing import Annotated

from pydantic import Field

from distrain.config.section import Section

HARNESS_MODULE, HARNESS_EXTRA = "lm_eval", "lm-eval"
WRITING = "generate_until"
"""How a task says, as its ``output_type``, that it asks for generated answers."""


class HarnessConfig(Section):
    """Which tasks are measured, and how they are asked."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of tasks or groups, as ``lm_eval`` knows them: ``arc_easy``."""
    include_path: str | None = None
    """A folder with task files (YAML) of your own; names are looked up there first."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; default: what the task says."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Questions of each task, the first ones; default: all."""
    chat_template: bool = False
    """Ask as a user, by the model's chat template."""
    batch_tokens: Annotated[int, Field(ge=1)] = 8192
    """Tokens of a forward pass; a longer question has one of its own."""


class LoopHarnessConfig(HarnessConfig):
    """Which tasks are asked at validations: those of log-likelihoods only.

    Multiple choice and perplexity. A task that asks for generated answers is refused: writing them
    costs a forward pass a token, of all ranks.
    """

    every: Annotated[int, Field(ge=1)] = 1
    """Validations from one time to the next; also at the first one and at the last step."""
