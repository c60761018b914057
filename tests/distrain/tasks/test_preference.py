import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distrain.config.models import LlamaConfig
from distrain.config.preference import PreferenceConfig
from distrain.config.tasks import IGNORE_INDEX, PREFERENCE, TASK_FORMS
from distrain.models import build_model
from distrain.models.init import initialize
from distrain.tasks.preference import PreferenceTask, preference_losses
from distrain.tasks.task import means
from tests.distrain.tasks.preferences import VOCAB_SIZE, dataset_of, made_pairs, microbatch_of

SIZES = LlamaConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=40,
    initializer_range=0.3,
)
COUNT = 6
REFERENCE = np.random.default_rng(3).uniform(-40, -5, (COUNT, 2))
LOSSES = ("sigmoid", "ipo", "hinge")


@pytest.fixture(scope="module")
def model():
    model = build_model(SIZES, VOCAB_SIZE)
    initialize(model, seed=5)
    return model.double()


def logps_of(model, example):
    """Log-probability of an answer after its prompt, alone in its batch."""
    ids = torch.from_numpy(example.ids.astype(np.int64))
    logits = model(ids[None, :-1])[0]
    own = F.log_softmax(logits, -1).gather(1, ids[1:, None])[:, 0]
    return own[torch.from_numpy(example.is_trained[1:])]


def plain_loss(model, pairs, loss, beta):
    """The mean over pairs, by the formulas of the papers."""
    losses = []
    for pair, reference in zip(pairs, REFERENCE.tolist(), strict=True):
        sums, lengths = [], []
        for example, kept in zip((pair.chosen, pair.rejected), reference, strict=True):
            logps = logps_of(model, example)
            sums.append(logps.sum() - kept)
            lengths.append(len(logps))
        margin = beta * (sums[0] - sums[1])
        gap = sums[0] / lengths[0] - sums[1] / lengths[1]
        losses.append(
            {
                "sigmoid": torch.log1p(torch.exp(-margin)),
                "ipo": (gap - 1 / (2 * beta)) ** 2,
                "hinge": torch.clamp(1 - margin, min=0),
            }[loss]
        )
    return torch.stack(losses).mean()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradients_are_those_of_each_answer_computed_alone(model, loss):
    pairs = made_pairs(COUNT)
    task = PreferenceTask(PreferenceConfig(loss=loss, beta=0.3))
    microbatch = microbatch_of(dataset_of(pairs, REFERENCE), range(COUNT))
    assert task.denominators(microbatch) == [COUNT]
    expected = plain_loss(model, pairs, loss, 0.3)
    wanted = gradients(model, expected)
    measured = task.measure(model, microbatch)
    found = gradients(model, measured.trained.sum() / COUNT)
    assert measured.trained.item() / COUNT == pytest.approx(expected.item(), rel=1e-10)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10)


def test_rewards_are_against_the_reference(model):
    pairs = made_pairs(COUNT)
    microbatch = microbatch_of(dataset_of(pairs, REFERENCE), range(COUNT))
    task = PreferenceTask(PreferenceConfig(beta=0.5))
    (row,) = task.measure(model, microbatch).stacked(task.form).tolist()
    figures = means(task.form, COUNT, row)
    logps = np.array(
        [[logps_of(model, e).sum().item() for e in (p.chosen, p.rejected)] for p in pairs]
    )
    rewards = 0.5 * (logps - REFERENCE)
    margins = rewards[:, 0] - rewards[:, 1]
    assert figures["logp_chosen"] == pytest.approx(logps[:, 0].mean())
    assert figures["reward_rejected"] == pytest.approx(rewards[:, 1].mean())
    assert figures["reward_margin"] == pytest.approx(margins.mean())
    assert figures["reward_accuracy"] == pytest.approx((margins > 0).mean())
    assert list(figures) == [metric.name for metric in TASK_FORMS[PREFERENCE].metrics]


def test_a_model_that_is_its_own_reference_loses_log_two_and_prefers_nothing(model):
    pairs = dataset_of(made_pairs(COUNT))
    microbatch = microbatch_of(pairs, range(COUNT))
    own = -torch.tensor([0.0])

    def itself(module, part):
        from distrain.tasks.task import forward_documents

        return -forward_documents(module, part).detach().view(-1, 2) + own

    task = PreferenceTask(reference=itself)
    measured = task.measure(model, microbatch)
    assert measured.trained.item() / COUNT == pytest.approx(math.log(2))
    assert measured.others["reward_accuracy"][0].item() == 0


def test_a_pair_counts_the_same_in_whatever_microbatch_and_group(model):
    dataset = dataset_of(made_pairs(COUNT), REFERENCE)
    task = PreferenceTask()
    whole = task.measure(model, microbatch_of(dataset, range(COUNT))).stacked(task.form)
    parts = [
        task.measure(model, microbatch_of(dataset, part)).stacked(task.form)
        for part in ([4], [0, 5], [1, 2, 3])
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-10, atol=1e-10)
    grouped = replace(microbatch_of(dataset, range(COUNT)), row_groups=(1, 5))
    both = task.measure(model, grouped).stacked(task.form)
    assert both.shape == (2, task.form.num_sums)
    torch.testing.assert_close(both.sum(0, keepdim=True), whole, rtol=1e-10, atol=1e-10)
    # The control: values of another pair would show.
    moved = dataset_of(made_pairs(COUNT), np.roll(REFERENCE, 1, 0))
    wrong = task.measure(model, microbatch_of(moved, range(COUNT))).stacked(task.form)
    assert abs(wrong - whole)[0, 0] > 1e-3


def test_a_pass_for_the_others_sake_adds_nothing(model):
    microbatch = microbatch_of(dataset_of(made_pairs(COUNT), REFERENCE), [0])
    rows = replace(
        microbatch,
        target_ids=torch.full_like(microbatch.target_ids, IGNORE_INDEX),
        places=torch.zeros(1, dtype=torch.int64),
        places_by_row=(1,),
        places_by_document=(1, 0, 0),
    )
    task = PreferenceTask()
    assert task.denominators(rows) == [0]
    measured = task.measure(model, rows)
    assert measured.stacked(task.form).tolist() == [[0.0] * task.form.num_sums]


def test_smoothing_takes_a_share_of_the_pairs_the_other_way_round():
    ratios, lengths = torch.tensor([[2.0, -1.0], [-3.0, 4.0]]), torch.ones(2, 2)
    smooth = PreferenceConfig(beta=0.5, label_smoothing=0.2)
    there, back = (
        preference_losses(part, lengths, PreferenceConfig(beta=0.5))
        for part in (ratios, ratios.flip(1))
    )
    found = preference_losses(ratios, lengths, smooth)
    torch.testing.assert_close(found, 0.8 * there + 0.2 * back)


def test_ipo_is_of_means_so_that_long_answers_do_not_count_more():
    short, long = torch.tensor([[2.0, -1.0]]), torch.tensor([[20.0, -10.0]])
    config = PreferenceConfig(loss="ipo")
    one, ten = torch.full((1, 2), 1.0), torch.full((1, 2), 10.0)
    assert preference_losses(short, one, config).equal(preference_losses(long, ten, config))
    assert not preference_losses(short, one, config).equal(preference_losses(long, one, config))


@pytest.mark.parametrize("loss", ["ipo", "hinge"])
def test_smoothing_is_of_sigmoid_alone(loss):
    with pytest.raises(ValueError, match="label_smoothing is of loss sigmoid"):
        PreferenceConfig(loss=loss, label_smoothing=0.1)
