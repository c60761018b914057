import pytest
import torch

from distrain.config.tasks import IGNORE_INDEX
from distrain.loss import summed_cross_entropy, target_losses


def random_batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 11, generator=generator).to(dtype)
    targets = torch.randint(11, (2, 5), generator=generator)
    targets[0, 2:4] = IGNORE_INDEX
    return logits, targets


def test_equals_the_definition():
    logits, targets = random_batch(torch.float64)
    expected = 0.0
    for row in range(2):
        for position in range(5):
            target = int(targets[row, position])
            if target != IGNORE_INDEX:
                probabilities = logits[row, position].exp() / logits[row, position].exp().sum()
                expected -= float(probabilities[target].log())
    assert float(summed_cross_entropy(logits, targets)) == pytest.approx(expected, rel=1e-12)


def test_parts_of_a_batch_add_up_to_the_whole():
    logits, targets = random_batch(torch.float64)
    parts = [summed_cross_entropy(logits[i : i + 1], targets[i : i + 1]) for i in range(2)]
    whole = summed_cross_entropy(logits, targets)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("logits_dtype", "loss_dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_sum_is_taken_in_at_least_float32(logits_dtype, loss_dtype):
    logits, targets = random_batch(logits_dtype)
    loss = summed_cross_entropy(logits, targets)
    assert loss.dtype == loss_dtype
    exact = summed_cross_entropy(logits.double(), targets)
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)


def test_batch_without_targets_gives_zero_loss_and_zero_gradient():
    logits, targets = random_batch()
    logits.requires_grad_()
    loss = summed_cross_entropy(logits, torch.full_like(targets, IGNORE_INDEX))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_shapes_that_disagree_are_refused():
    logits, targets = random_batch()
    with pytest.raises(ValueError, match=r"logits \(2, 5, 11\) and targets \(2, 4\)"):
        summed_cross_entropy(logits, targets[:, :4])


def test_groups_of_rows_are_summed_as_batches_of_their_own_bit_by_bit():
    logits, targets = random_batch(torch.bfloat16)
    logits, targets = logits.repeat(3, 1, 1), targets.repeat(3, 1)
    sums = target_losses(logits, targets, (1, 3, 2))
    bounds = ((0, 1), (1, 4), (4, 6))
    alone = [summed_cross_entropy(logits[a:b], targets[a:b]) for a, b in bounds]
    assert torch.equal(sums, torch.stack(alone))
    assert torch.equal(
        target_losses(logits, targets, (6,))[0], summed_cross_entropy(logits, targets)
    )


def test_losses_of_targets_add_up_and_are_zero_where_there_is_no_target():
    logits, targets = random_batch(torch.float64)
    losses = target_losses(logits, targets)
    assert losses.shape == targets.shape
    assert not losses[targets == IGNORE_INDEX].any()
    torch.testing.assert_close(losses.sum(), summed_cross_entropy(logits, targets))


def test_groups_that_are_not_the_batch_are_refused():
    logits, targets = random_batch()
    with pytest.raises(ValueError, match="rows in a batch of 2"):
        target_losses(logits, targets, (1, 2))
