"""The base of the optimizers that are written here."""

import inspect

from torch.optim import Optimizer


class OwnOptimizer(Optimizer):
    """torch's base class, without what torch does for its compiler.

    torch closes these two methods to its compiler, and on their first call imports the compiler
    for that, which takes as long as torch itself. Nothing here compiles an optimizer, so the
    methods are taken as they were before. Its own optimizers do the same once more in ``step``.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
