"""What the distillation objective starts from and weighs, by NumPy and scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
from torch import nn  # noqa: E402

from sfpose.training.objectives import (  # noqa: E402
    DistillationObjective,
    hellinger_features,
    spread_directions,
)


def _bank(count=60, size=8):
    torch.manual_seed(0)
    return nn.functional.normalize(torch.randn(count, size), dim=1)


@pytest.mark.parametrize(("count", "size"), [(24, 8), (40, 8), (5, 4), (16, 8)])
def test_directions_are_orthonormal_bases_and_their_opposites(count, size):
    rows = spread_directions(count, size).double().numpy()
    half = -(-count // 2)
    np.testing.assert_array_equal(rows[half:], -rows[: count - half])
    for first in range(0, half, size):
        base = rows[first : min(first + size, half)]
        np.testing.assert_allclose(base @ base.T, np.eye(len(base)), atol=1e-6)
    assert torch.equal(spread_directions(count, size), spread_directions(count, size))


def test_a_spread_code_is_fixed_and_mostly_near_zero():
    """The softplus of twice the values of variance 1 along each direction, less two."""
    bank = _bank(400)
    objective = DistillationObjective(bank, 32, spread_weight=0.5)
    values = bank.double().numpy() @ spread_directions(32, 8).double().numpy().T * 8**0.5
    assert values.std() == pytest.approx(1, rel=0.05)
    expected = np.log1p(np.exp(2 * values - 2))
    found = nn.functional.softplus(objective.code(bank)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not any(each.requires_grad for each in objective.code.parameters())


def test_the_affinity_to_the_own_code_counts_by_its_weight():
    bank = _bank()
    objective = DistillationObjective(
        bank, 32, spread_weight=0.25, hellinger_weight=2.0, cosine_bank=20, hellinger_bank=20
    ).eval()
    descriptors, targets = torch.rand(6, 32), torch.arange(6)
    loss, measured = objective(descriptors, targets)
    features = hellinger_features(descriptors / objective.divisors)
    codes = hellinger_features(nn.functional.softplus(objective.code(bank[targets])))
    affinity = float((features * codes).sum(1).mean())
    assert measured["affinity"] == pytest.approx(affinity, abs=1e-5)
    expected = measured["cosine_loss"] + 1 - measured["cosine"]
    expected += 2 * measured["hellinger_loss"] + 0.25 * (1 - affinity)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)


def test_values_are_divided_by_a_mean_that_runs_slowly_and_is_never_zero():
    objective = DistillationObjective(_bank(), 4)
    rows = torch.tensor([[4.0, 2.0, 0.0, 2.0]]).repeat(3, 1)
    expected = np.ones(4)
    for _ in range(5):
        objective.scaled(rows)
        expected += 0.01 * (rows[0].numpy() - expected)
        np.testing.assert_allclose(objective.mean.numpy(), expected, rtol=1e-5)
    objective.mean.copy_(torch.tensor([1.0, 3.0, 0.0, 0.0]))
    np.testing.assert_allclose(objective.divisors.numpy(), [1.001, 3.001, 0.001, 0.001])
    assert torch.isfinite(objective.eval().scaled(rows)).all()


def test_the_map_begins_with_what_ridge_regression_finds():
    bank = _bank(500)
    objective = DistillationObjective(bank, 16)
    outputs = torch.relu(bank @ torch.randn(8, 16)) + 0.1 * torch.rand(500, 16)
    objective.begin_with(outputs, torch.arange(500))
    means = outputs.double().numpy().mean(0)
    shares = outputs.double().numpy() / (means + 1e-3 * means.mean())
    shares = shares / shares.sum(1, keepdims=True)
    features = hellinger_features(torch.from_numpy(shares)).numpy()
    expected = Ridge(1e-3 * 500 / 16, fit_intercept=False).fit(features, bank.numpy()).coef_
    np.testing.assert_allclose(objective.linear.weight.detach().numpy(), expected, atol=2e-3)


def test_many_places_are_divided_by_the_root_of_their_number():
    objective = DistillationObjective(_bank(), 16, places=(3, 49))
    with torch.no_grad():
        objective.placed.weight.normal_()
    outputs = torch.rand(5, 16 + 3 * 49)
    features = hellinger_features(outputs[:, :16] / objective.divisors)
    mapped = objective.linear(features) + objective.placed(outputs[:, 16:] / 7)
    expected = nn.functional.normalize(mapped, dim=1)
    torch.testing.assert_close(objective.eval().to_teacher(outputs), expected)
