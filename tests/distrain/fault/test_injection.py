import math
import subprocess
import sys

import pytest

from distrain.fault.injection import SPIKE, InjectedError, Injection
from distrain.runs.planned_faults import EVERY_RANK, PlannedFault, append_fault, happened


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan"
    path.touch()
    return path


def factors(plan, rank, steps=range(1, 5), stage="pretrain"):
    inject = Injection(plan, stage, rank, 2)
    return [inject(step) for step in steps]


def test_what_changes_results_happens_whenever_its_step_is_computed(plan):
    append_fault(plan, PlannedFault(1, "nan", "pretrain", 2))
    append_fault(plan, PlannedFault(2, "spike", "pretrain", 4, EVERY_RANK))
    for _ in range(2):  # in a second attempt, and in a twin, as in the first one
        assert factors(plan, rank=0) == [1.0, 1.0, 1.0, SPIKE]
        last = factors(plan, rank=1)
        assert math.isnan(last[1])
        assert last[:1] + last[2:] == [1.0, 1.0, SPIKE]
    assert factors(plan, rank=0, stage="sft") == [1.0] * 4


def test_an_exception_happens_once_on_one_rank_at_the_first_step_that_is_not_before_it(plan):
    fault = PlannedFault(1, "exception", "pretrain", 2, rank=0)
    inject = Injection(plan, "pretrain", 0, 2)
    assert inject(1) == 1.0
    append_fault(plan, fault)  # while the rank runs
    assert Injection(plan, "pretrain", 1, 2)(3) == 1.0
    assert not happened(plan, fault).exists()
    with pytest.raises(InjectedError, match="at step 3"):
        inject(3)
    assert happened(plan, fault).exists()
    assert factors(plan, rank=0) == [1.0] * 4


def test_what_no_restart_mends_happens_in_each_attempt(plan):
    append_fault(plan, PlannedFault(1, "exception", "pretrain", 2, again=True))
    for _ in range(2):
        with pytest.raises(InjectedError):
            factors(plan, rank=1)


def test_an_early_exit_has_code_0(plan):
    append_fault(plan, PlannedFault(1, "exit", "pretrain", 1))
    code = "import sys; from pathlib import Path; from distrain.fault.injection import Injection; "
    code += f"Injection(Path({str(plan)!r}), 'pretrain', 0, 1)(1); sys.exit(3)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert happened(plan, PlannedFault(1, "exit", "pretrain", 1)).exists()
