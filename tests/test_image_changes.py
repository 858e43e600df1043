"""Changes of geometry and light in training: how far they spread, and of how many images."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.training.augmentation import (  # noqa: E402
    GeometryJitter,
    jitter_matrices,
    photometric_jitter,
)

CPU = torch.device("cpu")


def test_a_jitter_is_a_turn_of_a_stretch_by_a_zoom():
    """Zoom and stretch by the singular values: NumPy's."""
    torch.manual_seed(0)
    jitter = GeometryJitter(turn=10, shift=0.05, log_scale=0.2, log_stretch=0.1)
    linear = jitter_matrices(20_000, jitter, device=CPU).numpy().astype(float)[:, :2, :2]
    _, values, _ = np.linalg.svd(linear)
    zoom = np.log(values.prod(1)) / 2
    assert zoom.mean() == pytest.approx(0, abs=0.01)
    assert zoom.std() == pytest.approx(0.2, rel=0.03)
    # Columns stay at right angles: axes are stretched before they are turned.
    across, down = linear[:, :, 0], linear[:, :, 1]
    np.testing.assert_allclose((across * down).sum(1), 0, atol=1e-6)
    stretch = np.log(np.linalg.norm(across, axis=1) / np.linalg.norm(down, axis=1))
    assert stretch.std() == pytest.approx(0.1, rel=0.03)
    assert (np.linalg.det(linear) > 0).all()


def _changed(level, count=2000, side=8):
    torch.manual_seed(0)
    crops = torch.tensor(level).view(1, 3, 1, 1).expand(count, 3, side, side).clone()
    return photometric_jitter(crops).numpy().astype(float)


def test_a_tenth_becomes_grey_by_the_luma_of_its_colours():
    """Shares of 0.299, 0.587 and 0.114 of red, green and blue, as of JPEG."""
    for channel, share in enumerate((0.299, 0.587, 0.114)):
        level = [0.0, 0.0, 0.0]
        level[channel] = 0.5
        means = _changed(level).mean((2, 3))
        grey = np.ptp(means, axis=1) < 0.03
        assert grey.mean() == pytest.approx(0.12, abs=0.03)
        found = np.median(means[grey])
        others = np.median(means[~grey][:, channel])
        assert found / others == pytest.approx(share, rel=0.25)


def test_some_are_noisy_and_by_no_more_than_a_twentieth():
    spread = _changed([0.4, 0.4, 0.4], side=24).std((2, 3)).max(1)
    noisy = spread > 1e-3
    assert noisy.mean() == pytest.approx(0.3, abs=0.03)
    assert 0.03 < spread.max() < 0.06


def test_soft_images_of_one_colour_have_no_darker_edge():
    values = _changed([0.4, 0.4, 0.4], side=8)
    calm = values.std((2, 3)).max(1) < 2e-2
    edge, middle = values[calm][:, :, 0].mean(2), values[calm][:, :, 3:5].mean((2, 3))
    assert np.abs(edge - middle).max() < 0.05


def test_gain_and_gamma_spread_as_told():
    """Of an image of one colour: contrast does nothing, gain and offset, then the gamma."""
    level, count = 0.4, 20_000
    means = _changed([level] * 3, count, side=2).mean((2, 3))
    grey = np.log(np.median(means, axis=1).clip(1e-3))
    rng = np.random.default_rng(0)
    gain = np.exp(0.18 * rng.normal(size=(count, 1)) + 0.05 * rng.normal(size=(count, 3)))
    lit = ((level + 0.04 * rng.normal(size=(count, 1))) * gain).clip(1e-4, 1)
    expected = np.log(np.median(lit ** np.exp(0.2 * rng.normal(size=(count, 1))), axis=1))
    assert grey.std() == pytest.approx(expected.std(), rel=0.05)
    assert grey.mean() == pytest.approx(expected.mean(), abs=0.02)
