"""The loop with a schedule that follows the validation loss."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from torch import nn  # noqa: E402

from sfpose.training.faces import pass_order  # noqa: E402
from sfpose.training.identification import (  # noqa: E402
    IdentificationSettings,
    train_identification,
)
from sfpose.training.loop import LoopSettings, Stage, train  # noqa: E402
from sfpose.training.objectives import SoftmaxObjective  # noqa: E402
from sfpose.training.optimizers import build_optimizer  # noqa: E402
from sfpose.training.schedules import PlateauSchedule  # noqa: E402


class Halves:
    """Images whose brighter half tells the class; 32 for a pass."""

    def __init__(self, noise=0.3):
        self._noise = noise

    def __len__(self):
        return 32

    def batch(self, seed, first, count, size):
        targets = torch.from_numpy(pass_order(32, seed, first, count) % 2)
        images = self._noise * torch.stack(
            [
                torch.randn(3, size, size, generator=torch.Generator().manual_seed(number))
                for number in range(first, first + count)
            ]
        )
        images[targets == 0, :, : size // 2] += 2
        images[targets == 1, :, size // 2 :] += 2
        return images, targets


class Rows(nn.Module):
    """Means of the rows after a layer that knows where it looks."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 6)
        self.drop = nn.Dropout(0.2)

    def forward(self, images):
        return torch.relu(self.drop(self.layer(images.mean((1, 3)))))


SETTINGS = LoopSettings(stages=(Stage(8, 32 * 40, 16),), learning_rate=0.01, device="cpu")


def _interrupt(source, stop):
    """Let a source be stopped, as by Ctrl+C, when it is asked for image ``stop``; not if None."""
    if stop is None:
        return

    def batch(*arguments, given=source.batch):
        if arguments[1] >= stop:
            raise KeyboardInterrupt
        return given(*arguments)

    source.batch = batch


def _train(checkpoint=None, epochs=None, stop=None, schedule=None, validation=True, **more):
    torch.manual_seed(2)
    source = Halves()
    _interrupt(source, stop)
    schedule = schedule or PlateauSchedule((0.01, 0.005, 0.001), patience=2)
    network = train(
        Rows(),
        SoftmaxObjective(6, 2, dropout=0.2),
        source,
        SETTINGS if stop is None else replace(SETTINGS, checkpoint_minutes=0.0),
        validation=Halves(noise=1.5) if validation else None,
        schedule=schedule,
        checkpoint=checkpoint,
        on_epoch=None if epochs is None else epochs.append,
        **more,
    )
    return network, schedule


def test_the_rate_steps_down_where_the_validation_loss_stops_falling():
    schedule = PlateauSchedule((0.01, 0.005, 0.001, 0.0001), patience=2)
    # Two in a row without a new lowest, counted from the lowest of all.
    losses = [5, 4, 4.5, 3, 3, 3.1, 2.9, 2.9, 3.0, 2.0, 2.1, 2.2, 2.0, 2.05]
    rates = []
    for loss in losses:
        assert not schedule.finished
        schedule.observe(loss)
        rates.append(schedule.rate)
    assert rates == [0.01] * 5 + [0.005] * 3 + [0.001] * 3 + [0.0001] * 3
    assert schedule.finished


def test_new_layers_learn_ten_times_faster_at_the_first_rate_only():
    schedule = PlateauSchedule((0.01, 0.005), patience=1)
    assert schedule.factors(0) == (1.0, 10.0)
    for _ in range(2):
        schedule.observe(1.0)
    assert schedule.factors(99) == (0.5, 0.5)
    again = PlateauSchedule((0.01, 0.005), patience=1)
    again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    again.observe(0.5)
    assert (again.rate, again.finished) == (0.005, False)
    again.observe(0.5)
    assert again.finished


def test_a_schedule_goes_on_waiting_where_it_stopped():
    schedule = PlateauSchedule((0.01, 0.005), patience=3)
    for loss in (1.0, 2.0, 2.0):
        schedule.observe(loss)
    again = PlateauSchedule((0.01, 0.005), patience=3)
    again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert again.rate == 0.01
    # The third in a row that is no lower than the lowest of all.
    again.observe(1.5)
    assert again.rate == 0.005


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rates": (0.01, 0.02)}, "rates must fall"),
        ({"rates": (0.01, 0.01)}, "rates must fall"),
        ({"rates": ()}, "rates must fall"),
        ({"rates": (0.01, 0.0)}, "above zero"),
        ({"patience": 0}, "patience must be at least 1"),
    ],
)
def test_schedules_that_go_nowhere_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PlateauSchedule(**settings)


def test_only_the_head_and_named_layers_are_new():
    network, head = Rows(), SoftmaxObjective(6, 2)
    for name in ("sgd", "adamw", "muon"):
        optimizers = build_optimizer(
            name, network, head, learning_rate=0.1, weight_decay=0.01, new_layers=["layer.bias"]
        )
        new, old, decayed = set(), set(), set()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                (new if group["new"] else old).update(map(id, group["params"]))
                if group["weight_decay"]:
                    decayed.update(map(id, group["params"]))
        assert new == {id(p) for p in [network.layer.bias, *head.parameters()]}
        assert old == decayed == {id(network.layer.weight)}


def test_the_loop_follows_the_validation_loss_to_the_last_plateau():
    epochs = []
    _, schedule = _train(epochs=epochs)
    assert schedule.finished
    assert len(epochs) < 40
    rates = [entry["rate"] for entry in epochs]
    assert sorted(set(rates), reverse=True) == [0.01, 0.005, 0.001]
    assert rates == sorted(rates, reverse=True)
    assert epochs[-1]["validation_accuracy"] > 0.9
    replay = PlateauSchedule((0.01, 0.005, 0.001), patience=2)
    for entry in epochs:
        assert entry["rate"] == pytest.approx(replay.rate)
        replay.observe(entry["validation_loss"])
    assert replay.finished


def test_validation_sees_every_image_once_in_evaluation_mode():
    numbers, modes = [], []

    class Seen(Halves):
        def __len__(self):
            return 21

        def batch(self, seed, first, count, size):
            numbers.extend(range(first, first + count))
            return Halves().batch(0, 0, 21, size)[0][:count], torch.zeros(count).long()

    class Modes(Rows):
        def forward(self, images):
            modes.append((len(images), self.training))
            return super().forward(images)

    epochs = []
    train(
        Modes(),
        SoftmaxObjective(6, 2),
        Halves(),
        LoopSettings(stages=(Stage(8, 32, 16),), device="cpu"),
        validation=Seen(),
        on_epoch=epochs.append,
    )
    assert numbers == list(range(21))
    assert modes == [(16, True), (16, True), (16, False), (5, False)]
    assert "validation_loss" in epochs[0]


@pytest.mark.parametrize("stop", [40, 160])
def test_a_stopped_run_goes_on_with_schedule_and_history(tmp_path, stop):
    whole, resumed = [], []
    network, _ = _train(epochs=whole)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "broken.pt", stop=stop)
    again, schedule = _train(tmp_path / "broken.pt", resumed)
    assert resumed == whole
    assert schedule.finished
    for mine, theirs in zip(again.parameters(), network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    # A finished run is not trained on.
    once_more = []
    _train(tmp_path / "broken.pt", once_more, stop=0)
    assert once_more == whole


def test_a_run_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs validation images"):
        _train(validation=False)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "run.pt", stop=100)

    class Longer(Halves):
        def __len__(self):
            return 33

    with pytest.raises(ValueError, match=r"another images a pass \(32 there, 33 here\)"):
        train(Rows(), SoftmaxObjective(6, 2), Longer(), SETTINGS, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"parameters that learn \(\d+ there, \d+ here\)"):
        train(Rows(), SoftmaxObjective(6, 5), Halves(), SETTINGS, checkpoint=tmp_path / "run.pt")


class Few(Halves):
    """Fewer images than a batch holds."""

    def __len__(self):
        return 8


def _train_few(checkpoint=None, stop=None):
    torch.manual_seed(2)
    source, epochs = Few(), []
    _interrupt(source, stop)
    stages = (Stage(8, 6 * 8, 32),)
    network = train(
        Rows(),
        SoftmaxObjective(6, 2, dropout=0.2),
        source,
        replace(SETTINGS, stages=stages, checkpoint_minutes=0.0),
        validation=Halves(noise=1.5),
        schedule=PlateauSchedule((0.01,), patience=99),
        checkpoint=checkpoint,
        on_epoch=epochs.append,
        progress=False,
    )
    return network, epochs


def test_each_pass_over_fewer_images_than_a_batch_is_measured_and_resumed(tmp_path):
    network, epochs = _train_few()
    assert [entry["epoch"] for entry in epochs] == [1, 2, 3, 4, 5, 6]
    assert all("validation_loss" in entry for entry in epochs)
    with pytest.raises(KeyboardInterrupt):
        _train_few(tmp_path / "run.pt", stop=24)
    again, resumed = _train_few(tmp_path / "run.pt")
    assert resumed == epochs
    for mine, theirs in zip(again.parameters(), network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_identification_of_few_images_has_as_many_passes_as_asked_for():
    crops = np.random.default_rng(0).integers(0, 256, (8, 60, 60, 3), dtype=np.uint8)
    settings = IdentificationSettings(epochs=6, batch_size=32, train_size=32)
    _, history = train_identification(crops, np.arange(8) % 2, settings)
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5, 6]


class Smooth(Rows):
    """Without kinks, at which rounding decides between two slopes."""

    def forward(self, images):
        return torch.tanh(self.layer(images.mean((1, 3))))


def train_smooth():
    """Seven passes in batches of 15, which two processes cannot share evenly."""
    torch.manual_seed(5)
    epochs = []
    network = train(
        Smooth(),
        SoftmaxObjective(6, 2, dropout=0.3),
        Halves(),
        LoopSettings(
            stages=(Stage(8, 32 * 7, 15),),
            learning_rate=0.05,
            device="cpu",
            precision="float32",
        ),
        validation=Halves(noise=1.5),
        schedule=PlateauSchedule((0.05, 0.01), patience=1),
        on_epoch=epochs.append,
        progress=False,
    )
    return network, epochs
