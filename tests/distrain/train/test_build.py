import pytest
import torch

from distrain.config.training import TrainingConfig
from distrain.errors import RecipeError
from distrain.fault.page import page
from distrain.runs.progress_page import read_pages
from distrain.train import build
from distrain.train.build import steps_of


def test_a_stage_of_less_than_one_step_is_refused():
    training = TrainingConfig(max_tokens=100, global_batch_size=8, sequence_length=256)
    with pytest.raises(RecipeError, match=r"training\.max_tokens: found 100, less than one"):
        steps_of(training, {})


def test_a_length_in_tokens_is_rounded_down():
    training = TrainingConfig(max_tokens=500_000, global_batch_size=8, sequence_length=256)
    assert steps_of(training, {}) == 244


def test_a_gpu_is_taken_before_a_rank_says_that_it_waits_for_others(tmp_path, monkeypatch):
    """No GPU is at hand: the call that would begin CUDA only notes what the page says then."""
    seen = []
    monkeypatch.setattr(build, "resolve_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(build, "return_large_buffers", lambda *_: None)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda _: seen.append(read_pages(tmp_path)[0].main)
    )
    monkeypatch.delenv("RANK", raising=False)
    page.open(tmp_path, 0)
    try:
        build.build_host(TrainingConfig(max_steps=1, global_batch_size=8, sequence_length=8))
    finally:
        page.close()
    assert [(lane.phase, lane.waits) for lane in seen] == [("rendezvous", 0)]
