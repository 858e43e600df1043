"""Steps of the optimisers that recipes name, by NumPy and by torch's own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
from torch import nn  # noqa: E402

from sfpose.training.optimizers import Muon, build_optimizer  # noqa: E402


def _orthogonal(matrix):
    """Newton-Schulz as a polynomial of the singular values, in float64."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(matrix)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (left * values) @ right


@pytest.mark.parametrize("momentum", [None, 0.8])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_muon_looks_ahead_along_a_running_mean_and_decays_by_the_rate(momentum, weight_decay):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(6, 10)), rng.normal(size=(4, 6, 10))
    parameter = nn.Parameter(torch.from_numpy(start))
    given = {} if momentum is None else {"momentum": momentum}
    optimizer = Muon([parameter], lr=0.05, weight_decay=weight_decay, **given)
    share = 0.95 if momentum is None else momentum
    expected, mean = start.copy(), np.zeros((6, 10))
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        mean = share * mean + (1 - share) * gradient
        ahead = share * mean + (1 - share) * gradient
        expected = expected * (1 - 0.05 * weight_decay)
        expected = expected - 0.05 * 0.2 * 10**0.5 * _orthogonal(ahead)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "nesterov"), [("sgd", False), ("nesterov", True)])
def test_stochastic_descent_is_torchs_with_momentum(name, nesterov):
    """Weights decay; biases and the head do not."""

    def parts():
        torch.manual_seed(0)
        return nn.Linear(4, 3), nn.Linear(3, 2)

    def loss(network, head):
        images = torch.linspace(-1, 1, 20).view(5, 4)
        return (head(network(images).tanh()) ** 2).sum()

    ours, theirs = parts(), parts()
    optimizers = build_optimizer(name, *ours, learning_rate=0.05, weight_decay=0.1)
    groups = [
        {"params": [theirs[0].weight], "weight_decay": 0.1},
        {"params": [theirs[0].bias, *theirs[1].parameters()], "weight_decay": 0.0},
    ]
    expected = torch.optim.SGD(groups, 0.05, momentum=0.9, nesterov=nesterov)
    for _ in range(5):
        for network, steps in ((ours, optimizers), (theirs, [expected])):
            for step in steps:
                step.zero_grad()
            loss(*network).backward()
            for step in steps:
                step.step()
    for mine, other in zip(ours, theirs, strict=True):
        for one, two in zip(mine.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two)


def test_each_group_knows_the_rate_that_it_began_with():
    network, head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Linear(4, 2)
    optimizers = build_optimizer("muon", network, head, learning_rate=0.02, weight_decay=0.1)
    muon, adamw = optimizers
    assert [type(each) for each in optimizers] == [Muon, torch.optim.AdamW]
    assert [each.shape for group in muon.param_groups for each in group["params"]] == [(4, 3, 3, 3)]
    for group in (*muon.param_groups, *adamw.param_groups):
        assert group["initial_lr"] == group["lr"] == 0.02
    assert [group["weight_decay"] for group in muon.param_groups] == [0.1]
    assert {group["weight_decay"] for group in adamw.param_groups} == {0.0}
