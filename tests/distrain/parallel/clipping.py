"""That no engine clips without a limit, and each still says what the norm was."""

import math

from torch import Tensor

from distrain.parallel.global_tensor import gather_full
from tests.distrain.parallel.probe import same_bits
from tests.distrain.parallel.tiny_model import Case, engine_of, train_step


def trained(case: Case, max_grad_norm: float | None) -> tuple[list[float], dict[str, Tensor]]:
    engine = engine_of(case)
    norms = [
        train_step(engine, step, case.microbatch, max_grad_norm=max_grad_norm)[1]
        for step in range(3)
    ]
    state = gather_full(engine.state())
    engine.close()
    return norms, state


def clip_nothing(cases: list[Case]) -> None:
    for case in cases:
        norms, state = trained(case, None)
        assert all(1 < norm < math.inf for norm in norms), case
        huge_norms, huge_state = trained(case, 1e30)
        assert huge_norms == norms, case
        assert same_bits(huge_state, state), case
        assert not same_bits(trained(case, 1.0)[1], state), case
