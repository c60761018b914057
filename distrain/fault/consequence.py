"""Whether a rank failed by itself, or only met that another one had."""

import re
from collections.abc import Iterator

OTHERS = re.compile(r"gloo|nccl|TCPStore|connection (closed|reset|refused)", re.IGNORECASE)
"""In what torch says of a collective that cannot go on. Gloo has no class of errors of its own."""


def is_of_others(error: BaseException) -> bool:
    """Return whether an error, or what it came from, says that other ranks cannot be reached.

    Who is blamed for a failure depends on it, so a wrong yes is the lesser harm: then nobody is.
    """
    return any(_is_of_others(one) for one in _causes(error))


def _is_of_others(error: BaseException) -> bool:
    # ``DistError`` and its kin are torch's, which this process may not have imported.
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    of_torch = "torch.distributed.DistError" in kinds
    return of_torch or (isinstance(error, RuntimeError) and bool(OTHERS.search(str(error))))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
