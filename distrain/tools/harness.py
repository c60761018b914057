"""``distrain evaluate MODEL --tasks``: tasks of ``lm_eval``, asked of a model's folder."""

import argparse
import json
import os
import sys
from contextlib import redirect_stdout

from distrain.config.harness import HarnessConfig
from distrain.errors import ExitCode
from distrain.models.gguf.convert import pretrained_folder
from distrain.runs.records import json_text
from distrain.tools.generate import check_whole, user_cache


def run_command(arguments: argparse.Namespace) -> int:
    """Print what came out as JSON: task -> metric -> value; returns the exit code."""
    from distrain.evaluation.harness.opening import open_folder
    from distrain.evaluation.harness.tasks import run_tasks

    config = HarnessConfig(**json.loads(arguments.settings))
    folder = pretrained_folder(arguments.model, user_cache())
    check_whole(folder)
    # The library prints as it goes; what is read is the result alone.
    with redirect_stdout(sys.stderr):
        model = open_folder(
            folder, batch_tokens=config.batch_tokens, max_memory=arguments.max_memory
        )
        found = run_tasks(model, config, "--tasks")
    sys.stdout.write(json_text(found) + os.linesep)
    return ExitCode.DONE
