"""What a run draws, how fast it learns, and what its checkpoints may do."""

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from torch import nn  # noqa: E402

from sfpose.training.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from sfpose.training.loop import LoopSettings, train  # noqa: E402
from sfpose.training.non_faces import (  # noqa: E402  # noqa: E402
    _margin,
    _shuffled,
    _spectrum,
    _torn,
    _upside_down,
    turn_into_non_faces,
)
from sfpose.training.objectives import SoftmaxObjective  # noqa: E402
from sfpose.training.schedules import LineSchedule, Stage  # noqa: E402
from sfpose.training.streaming import StreamedImages  # noqa: E402


class _Harm:
    """Makes a folder where it is read."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    save_checkpoint(tmp_path / "evil.pt", {"seen": 1, "more": _Harm(tmp_path / "made")})
    with pytest.raises(ValueError, match=r"checkpoint .*evil\.pt cannot be read"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()


def test_a_rate_goes_in_lines_through_all_stages_after_its_rise():
    """Two stages of 100 and 300 images; it rises over a tenth of all of them."""
    stages = (Stage(32, 100, 10, (1.0, 0.6)), Stage(64, 300, 10, (0.5, 0.0)))
    schedule = LineSchedule(stages, 0.1, head_factor=3.0)
    for seen in (0, 1, 20, 39, 40, 60, 99, 100, 250, 399):
        line = np.interp(seen, [0, 100], [1.0, 0.6])
        if seen >= 100:
            line = np.interp(seen, [100, 400], [0.5, 0.0])
        # The first step is a thousandth of the rate, not none.
        expected = line * min(1, max(seen / 40, 1e-3))
        assert schedule.factors(seen) == pytest.approx((expected, 3 * expected))
    with pytest.raises(ValueError, match="no stage holds image 400; the stages end at 400"):
        schedule.factors(400)


def test_a_rise_that_ends_with_the_first_batch_is_left_out():
    assert LineSchedule((Stage(32, 6, 6),), 0.02, head_factor=10.0).factors(0) == (1.0, 10.0)
    long = LineSchedule((Stage(32, 100, 10),), 0.1)
    assert long.factors(0)[0] == 1.0
    assert LineSchedule((Stage(32, 100, 9),), 0.1).factors(0)[0] == pytest.approx(1e-3)


class _Ramps:
    """Images whose columns count up: a crop tells where it was cut."""

    people = ("a",)
    labels = np.zeros(6, np.int64)
    aligned = False

    def __len__(self):
        return 6

    def name(self, row):
        return f"ramp {row}"

    def image(self, row):
        columns = np.arange(256)[None, :, None]
        levels = np.concatenate([columns, columns[::-1] * 0 + row, columns], 2)
        return np.repeat(levels, 256, 0).astype(np.uint8)


def test_each_pass_crops_an_image_at_another_place():
    source = StreamedImages(_Ramps(), np.arange(6), _Ramps.labels)
    images = torch.cat([source.batch(0, 6 * number, 6, 224)[0] for number in range(8)]).numpy()
    # Of each image: its row by the second colour, its place by the first.
    rows, places = images[:, 1, 0, 0], images[:, 0, 0, 0]
    for row in np.unique(rows):
        own = places[rows == row]
        assert len(own) == 8
        assert len(np.unique(own)) > 4


class _Lost(_Ramps):
    def image(self, row):
        if row == 2:
            raise OSError("the disk is gone")
        return super().image(row)


def test_an_image_that_a_disk_does_not_give_is_named_or_left_out():
    def source(**settings):
        return StreamedImages(_Lost(), np.arange(6), _Ramps.labels, **settings)

    with pytest.raises(ValueError, match="image 'ramp 2' cannot be read: the disk is gone"):
        source().batch(0, 0, 6, 32)
    kept = source(on_unreadable="leave out")
    assert len(kept.batch(0, 0, 6, 32)[0]) == 5
    assert kept.unreadable == {"ramp 2"}


def _picture(side=60):
    """Levels that rise to the right in red, downwards in green."""
    steps = torch.linspace(0, 1, side)
    red, green = steps.expand(side, side), steps[:, None].expand(side, side)
    return torch.stack([red, green, torch.full((side, side), 0.5)])


def test_a_face_upside_down_is_mirrored_from_top_to_bottom():
    torch.testing.assert_close(_upside_down(_picture())[1], _picture()[1].flip(0))
    torch.testing.assert_close(_upside_down(_picture())[0], _picture()[0])


def test_tiles_are_shuffled_across_and_down():
    """Each tile once, and most of them in another place."""
    torch.manual_seed(0)
    crop, moved = _picture(), []
    for _ in range(20):
        result = _shuffled(crop)
        moved.append((result[:2] != crop[:2]).float().mean((1, 2)))
        torch.testing.assert_close(result.flatten(1).sort(1)[0], crop.flatten(1).sort(1)[0])
    assert (torch.stack(moved).mean(0) > 0.6).all()


def test_a_corner_of_the_margin_is_magnified():
    """A quarter to a sixth of the side, or half of the height, from the very edge."""
    torch.manual_seed(0)
    for _ in range(20):
        corner = _margin(_picture())
        red, green = corner[0], corner[1]
        assert red.min() < 0.01 or red.max() > 0.99
        assert green.min() < 0.01 or green.max() > 0.99
        assert red.max() - red.min() < 0.26
        assert green.max() - green.min() < 0.51


def test_a_torn_face_is_turned_and_no_face_stays_upright():
    torch.manual_seed(0)
    quarters = 0
    for _ in range(40):
        torn = _torn(_picture())
        across = (torn[0].diff(dim=1) > 0).float().mean()
        quarters += int(across < 0.5 and (torn[1].diff(dim=1) != 0).any())
        # Red rises to the right nowhere, whether it was turned by a half or a quarter.
        assert across < 0.1
    assert 8 < quarters < 32


def test_textures_have_less_of_what_is_fine():
    """Power falls with frequency, as that of photos does."""
    torch.manual_seed(0)
    for _ in range(10):
        power = torch.fft.fft2(_spectrum(_picture(64)) - 0.5)[0].abs() ** 2
        assert power[1:4, 1:4].mean() > 3 * power[20:30, 20:30].mean()


def test_half_of_the_non_faces_are_made_of_the_faces():
    """Of crops of one pure blue: what is made of them has no colour but that."""
    torch.manual_seed(0)
    crops = torch.zeros(400, 3, 16, 16)
    crops[:, 2] = 0.7310585
    made = turn_into_non_faces(crops)
    own = ((made - crops).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    assert float(own) == pytest.approx(0.5, abs=0.08)


def test_frozen_normalisations_learn_no_means_either():
    """What is to stay as it is gives in the end what it gave at the start."""

    class Noise:
        def __len__(self):
            return 8

        def batch(self, seed, first, count, size):
            return torch.randn(count, 3, size, size), torch.zeros(count, dtype=torch.int64)

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    network = nn.Sequential(network, nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network[0].requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stages = (Stage(8, 16, 4),)
    loop = LoopSettings(stages=stages, optimizer="nesterov", learning_rate=0.1, device="cpu")
    train(network, SoftmaxObjective(4, 2, dropout=0.0), Noise(), loop, progress=False)
    after = network.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("0."), name
