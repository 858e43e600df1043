"""Changes of geometry and light in training: how far they spread, and of how many images."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.training.augmentation import (  # noqa: E402
    GeometryJitter,
    jitter_matrices,
    photometric_jitter,
    round_at_random,
    sample_images,
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


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_contrast_is_changed_about_the_mean_of_each_image(strength):
    """Images of two levels, dark ones and brighter ones; NumPy draws as many."""
    count, levels = 4000, np.array([[0.15, 0.3], [0.4, 0.6]])
    torch.manual_seed(0)
    crops = torch.from_numpy(levels).float().repeat(count, 1)[:, None, None]
    crops = crops.repeat_interleave(8, 3).expand(-1, 3, 16, -1)
    found = photometric_jitter(crops.clone(), strength=strength).numpy().astype(float)
    # The middle of each half, which neither softness nor noise changes.
    halves = [np.median(found[..., own], axis=(1, 2, 3)) for own in (slice(5), slice(11, 16))]
    found = np.log(np.reshape(halves, (2, count, 2)).clip(1e-3))
    rng = np.random.default_rng(0)

    def normal(size=1):
        return strength * rng.normal(size=(count, 1, size))

    shown = levels - levels.mean(1, keepdims=True)
    shown = shown * np.exp(0.18 * normal()) + levels.mean(1, keepdims=True) + 0.04 * normal()
    shown = shown * np.exp(0.18 * normal()) * np.exp(0.05 * np.median(normal(3), axis=2)[..., None])
    expected = np.log(shown.clip(1e-3, 1) ** np.exp(0.2 * normal())).transpose(2, 0, 1)
    for mine, theirs in ((found, expected), (found[1] - found[0], expected[1] - expected[0])):
        np.testing.assert_allclose(mine.mean(-2), theirs.mean(-2), atol=0.03)
        np.testing.assert_allclose(mine.std(-2), theirs.std(-2), rtol=0.08)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_three_tenths_are_soft_and_an_eighth_are_coarse(strength):
    """Of chequered images, of which neither leaves much."""
    torch.manual_seed(0)
    board = 0.2 + 0.4 * (torch.arange(16)[:, None] + torch.arange(16)).remainder(2)
    crops = board.expand(2000, 3, -1, -1).clone()
    changed = photometric_jitter(crops, strength=strength).numpy().mean(1)
    plain = changed.std((1, 2)) < changed.mean((1, 2)) / 4
    expected = 1 - (1 - 0.3 * strength) * (1 - 0.12 * strength)
    assert plain.mean() == pytest.approx(expected, abs=0.03)


def test_numbers_are_rounded_at_random_to_what_they_are_on_average():
    torch.manual_seed(0)
    for number in (0.3, 2.8, 4.0):
        drawn = [round_at_random(number) for _ in range(3000)]
        assert set(drawn) == {int(np.floor(number)), int(np.ceil(number))}
        assert np.mean(drawn) == pytest.approx(number, abs=0.03)


@pytest.mark.parametrize(
    ("padding", "mode"), [("zeros", "constant"), ("border", "edge"), ("reflection", "symmetric")]
)
def test_around_a_photo_lies_what_is_asked_for(padding, mode):
    photos = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    matrix = torch.tensor([[16.0, 0, -4], [0, 16, -4], [0, 0, 1]]).expand(2, -1, -1)
    found = sample_images(torch.from_numpy(photos), matrix, 16, padding=padding)
    expected = np.pad(photos, [(0, 0), (4, 4), (4, 4), (0, 0)], mode=mode) / 255
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, atol=1e-5)
