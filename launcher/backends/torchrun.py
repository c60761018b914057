"""The backend ``torchrun``: nodes that share the run folder, but no scheduler.

Every node runs one command, its supervisor; they agree through the run folder (``nodes.py``), and
the processes of a stage meet at ``launch.rendezvous``.
"""

import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace

from distrain.errors import DistrainError, ExitCode, RecipeError
from launcher.backends.interrupt import clear_wishes
from launcher.backends.local import LocalBackend, run_stages, stage_orders
from launcher.backends.nodes import FirstNode
from launcher.backends.orders import Orders
from launcher.backends.protocol import Surroundings
from launcher.plan import Plan, StagePlan


class TorchrunBackend(LocalBackend):
    """As ``local`` on one node; with several, each runs a command of its own."""

    def render(self, plan: Plan) -> str:
        """Write the commands, one a node where there are several, and what they start."""
        if plan.recipe.launch.nodes == 1:
            return super().render(plan)
        orders = orders_of(plan)
        texts = [
            "\n".join([f"# node {node}", command, *_started(orders, node)])
            for node, command in enumerate(commands_per_node(plan))
        ]
        return "\n\n".join(texts)

    def start(self, plan: Plan, stages: Sequence[StagePlan], around: Surroundings) -> ExitCode:
        """Show each node's command; be the first node's supervisor if this is it."""
        if all(stage.nodes == 1 for stage in stages):
            return super().start(plan, stages, around)
        plan = replace(plan, stages=tuple(stages))
        is_first = is_first_node(plan)
        orders = orders_of(plan)
        orders.write(plan.run.meeting)
        for node, command in enumerate(commands_per_node(plan)):
            if node > 0 or not is_first:
                sys.stdout.write(f"# type this on node {node}\n{command}\n")
        sys.stdout.flush()
        if not is_first:
            return ExitCode.DONE
        clear_wishes(plan.run)
        return run_first_node(plan, orders, around)


def run_first_node(plan: Plan, orders: Orders, around: Surroundings) -> ExitCode:
    """Run all stages from here; the other nodes take part where a stage has several.

    Raises:
        DistrainError: A stage failed for good; the other nodes know of it, too.
    """
    first = FirstNode(plan.run, plan.run.meeting, orders, around.say)
    code = ExitCode.BUG
    try:
        code = run_stages(
            plan, plan.stages, around, lambda stage, log: first.start(stage.name, log)
        )
    except DistrainError as error:
        code = error.exit_code
        raise
    finally:
        first.end(code)
    return code


def orders_of(plan: Plan, python: str = sys.executable) -> Orders:
    """Return what the nodes start.

    Raises:
        RecipeError: Several nodes without a rendezvous.
    """
    launch = plan.recipe.launch
    stages = (stage_orders(plan.run, stage, python) for stage in plan.stages)
    host, port = _address(plan)
    return Orders(launch.nodes, launch.max_restarts, tuple(stages), host, port)


def commands_per_node(plan: Plan, python: str = sys.executable) -> list[str]:
    """Return what to type on each node, the first of which is ``launch.rendezvous``."""
    words = [python, "-m", "launcher.backends.node", str(plan.run.root)]
    return [shlex.join([*words, str(node)]) for node in range(plan.recipe.launch.nodes)]


def is_first_node(plan: Plan) -> bool:
    """Return whether this machine is the first node, not another one or none of them."""
    host, _ = _address(plan)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)  # only an address of this machine can be bound
    except OSError:
        return False
    return True


def _started(orders: Orders, node: int) -> list[str]:
    """Write what a node's supervisor starts, as comments."""
    lines = []
    for stage in orders.stages:
        if node == 0 or stage.nodes > 1:
            env = [f"{name}={shlex.quote(value)}" for name, value in stage.env.items()]
            command = shlex.join(stage.argv)
            lines.append(f"# starts for {stage.name}: {' '.join([*env, command])}")
    return lines


def _address(plan: Plan) -> tuple[str, int]:
    if plan.recipe.launch.rendezvous is not None:
        host, _, port = plan.recipe.launch.rendezvous.rpartition(":")
        return host.strip("[]"), int(port)  # of an IPv6 address: only before a port
    raise RecipeError(
        "launch.rendezvous",
        "nothing",
        f"host:port of the first of {plan.recipe.launch.nodes} nodes, reachable from all of them",
        f"Set launch.rendezvous={socket.gethostname()}:29400 if this is the first node.",
    )
