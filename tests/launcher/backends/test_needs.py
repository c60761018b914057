import pytest

from distrain.errors import PreflightError
from distrain.runs.records import write_json
from launcher.backends.needs import check_needs
from launcher.plan import select_stages
from tests.launcher.small_run import new_run


def test_a_needed_stage_that_is_left_out_and_not_done_is_named(tmp_path):
    plan = new_run(tmp_path)
    stages = select_stages(plan, only=("export",))
    with pytest.raises(PreflightError, match="needs stage pretrain, which is not done"):
        check_needs(plan, stages)
    write_json(plan.run.stage("pretrain").state, {"state": "done"})
    check_needs(plan, stages)
