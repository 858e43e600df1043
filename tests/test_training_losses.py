"""Margin losses against a computation in NumPy float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.training.margins import (  # noqa: E402
    ArcFaceObjective,
    CosFaceObjective,
    identification_objective,
)
from sfpose.training.objectives import SoftmaxObjective  # noqa: E402

PEOPLE, WIDTH, COUNT = 7, 12, 20


def _features(descriptors):
    """Batch normalisation over the batch, then length 1."""
    rows = descriptors.double().numpy()
    rows = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _cross_entropy(logits, targets):
    logits = logits - logits.max(1, keepdims=True)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return -np.log(shares[np.arange(len(targets)), targets]).mean()


def _arcface(cosine, margin, easy):
    angle = np.arccos(cosine)
    if easy:
        return np.cos(angle + margin) if angle < np.pi / 2 else cosine
    if angle + margin > np.pi:
        return cosine - margin * np.sin(np.pi - margin)
    return np.cos(angle + margin)


def _cosines(objective, descriptors):
    weight = objective.weight.detach().double().numpy()
    return _features(descriptors) @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T


def _problem(objective):
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.rand(COUNT, WIDTH, generator=generator) * 5
    targets = torch.arange(COUNT) % PEOPLE
    features = torch.from_numpy(_features(descriptors)).float()
    with torch.no_grad():
        # Some true classes lie opposite to their descriptor, beyond pi less the margin.
        for row in (0, 1, 2):
            objective.weight[targets[row]] = -3 * features[row]
        objective.weight[targets[3]] = 2 * features[3]
    return descriptors, targets


@pytest.mark.parametrize(("margin", "scale"), [(0.5, 64.0), (0.1, 10.0), (1.2, 16.0)])
@pytest.mark.parametrize("easy", [False, True])
def test_arcface_is_the_cosine_of_the_moved_angle(margin, scale, easy):
    objective = ArcFaceObjective(
        WIDTH, PEOPLE, margin=margin, scale=scale, dropout=0.0, easy_margin=easy
    )
    descriptors, targets = _problem(objective)
    cosines = _cosines(objective, descriptors)
    own = cosines[np.arange(COUNT), targets]
    assert (np.arccos(own) + margin > np.pi).sum() >= 3
    assert (own > 0).sum() >= 3
    expected = scale * cosines
    for row, target in enumerate(targets.tolist()):
        expected[row, target] = scale * _arcface(cosines[row, target], margin, easy)
    loss, measured = objective(descriptors, targets)
    assert float(loss.detach()) == pytest.approx(_cross_entropy(expected, targets), rel=2e-4)
    assert measured["accuracy"] == pytest.approx((cosines.argmax(1) == targets.numpy()).mean())
    loss.backward()
    assert objective.weight.grad.isfinite().all()


def test_arcfaces_margin_only_ever_lowers_and_never_turns_round():
    objective = ArcFaceObjective(WIDTH, PEOPLE).double()
    cosines = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    moved = objective.with_margin(cosines)
    assert (moved <= cosines + 1e-9).all()
    # Monotone over all angles but for the small step down where the branch changes.
    before, after = moved[:-1], moved[1:]
    rising = after > before - 1e-12
    assert (~rising).sum() <= 2
    inner = torch.linspace(-0.95, 0.99, 50, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(objective.with_margin, inner)


@pytest.mark.parametrize(("margin", "scale"), [(0.35, 64.0), (0.2, 10.0)])
def test_cosface_lowers_the_true_cosine_by_the_margin(margin, scale):
    objective = CosFaceObjective(WIDTH, PEOPLE, margin=margin, scale=scale, dropout=0.0)
    descriptors, targets = _problem(objective)
    cosines = _cosines(objective, descriptors)
    expected = scale * (cosines - margin * np.eye(PEOPLE)[targets])
    loss, _ = objective(descriptors, targets)
    assert float(loss.detach()) == pytest.approx(_cross_entropy(expected, targets), rel=2e-4)


@pytest.mark.parametrize("kind", [ArcFaceObjective, CosFaceObjective])
def test_validation_has_no_margin(kind):
    plain = kind(WIDTH, PEOPLE, margin=0.0, dropout=0.5)
    objective = kind(WIDTH, PEOPLE, dropout=0.5)
    objective.load_state_dict(plain.state_dict())
    descriptors, targets = _problem(objective)
    plain.load_state_dict(objective.state_dict())
    without = plain.eval()(descriptors, targets)[0]
    torch.testing.assert_close(objective.eval()(descriptors, targets)[0], without)
    cosines = objective.scale * torch.nn.functional.linear(
        torch.nn.functional.normalize(objective.batchnorm10(descriptors)),
        torch.nn.functional.normalize(objective.weight),
    )
    torch.testing.assert_close(without, torch.nn.functional.cross_entropy(cosines, targets))


def test_losses_go_by_name():
    kinds = {"softmax": SoftmaxObjective, "arcface": ArcFaceObjective, "cosface": CosFaceObjective}
    for name, kind in kinds.items():
        objective = identification_objective(name, WIDTH, PEOPLE, dropout=0.25)
        assert type(objective) is kind
        assert objective.dropout10.p == 0.25
    with pytest.raises(ValueError, match="loss must be one of"):
        identification_objective("triplet", WIDTH, PEOPLE)


def test_losses_by_name_have_the_margins_of_their_papers():
    angles = np.array([0.3, 1.0, 1.8, 2.5])
    cosines = torch.from_numpy(np.cos(angles))
    arcface, cosface = (identification_objective(n, WIDTH, PEOPLE) for n in ("arcface", "cosface"))
    np.testing.assert_allclose(arcface.with_margin(cosines), np.cos(angles + 0.5), atol=1e-9)
    np.testing.assert_allclose(cosface.with_margin(cosines), np.cos(angles) - 0.35)
    assert (arcface.scale, cosface.scale) == (64, 64)
