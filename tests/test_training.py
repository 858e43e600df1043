"""Training: exact resume, parity of exports, learning on a small problem."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from torch import nn  # noqa: E402

from sfpose.networks import build_network  # noqa: E402
from sfpose.runtime.artifact import Artifact, read_artifact  # noqa: E402
from sfpose.runtime.session import OnnxModel  # noqa: E402
from sfpose.training.augmentation import (  # noqa: E402
    GeometryJitter,
    jitter_matrices,
    mirror_matrices,
    photometric_jitter,
    sample_images,
)
from sfpose.training.checkpoints import load_checkpoint  # noqa: E402
from sfpose.training.export import (  # noqa: E402
    check_parity,
    fold_batch_norm,
    network_from_artifact,
    scale_descriptor,
    to_onnx,
)
from sfpose.training.faces import pass_order  # noqa: E402
from sfpose.training.loop import LoopSettings, Stage, train  # noqa: E402
from sfpose.training.objectives import SoftmaxObjective, hellinger_features  # noqa: E402
from sfpose.training.optimizers import OPTIMIZERS, Muon, build_optimizer  # noqa: E402
from sfpose.training.starts import start_network  # noqa: E402


class Blobs:
    """Pictures of four brightness patterns: a problem that is learnt in seconds."""

    def __len__(self):
        return 64

    def batch(self, seed, first, count, size):
        chosen = pass_order(64, seed, first, count) % 4
        targets = torch.from_numpy(chosen)
        images = torch.randn(count, 3, size, size) * 0.3
        images[:, 0, : size // 2] += (targets % 2).view(-1, 1, 1).float() * 2
        images[:, 1, :, : size // 2] += (targets // 2).view(-1, 1, 1).float() * 2
        return images, targets


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()
        )

    def forward(self, x):
        return self.layers(x).mean((2, 3))


def _train(checkpoint=None, images=320, stop=None, average=0.5, **changes):
    torch.manual_seed(3)
    network, objective = Tiny(), SoftmaxObjective(16, 4, dropout=0.1)
    settings = LoopSettings(
        stages=(Stage(12, 192, 32, (1.0, 0.5)), Stage(16, images - 192, 32, (0.5, 0.0))),
        learning_rate=0.2,
        average=average,
        checkpoint_minutes=0.0,
        **changes,
    )
    if stop is not None:
        seen = []

        class Stopping(Blobs):
            def batch(self, seed, first, count, size):
                seen.append(first)
                if first >= stop:
                    raise KeyboardInterrupt
                return super().batch(seed, first, count, size)

        with pytest.raises(KeyboardInterrupt):
            train(network, objective, Stopping(), settings, checkpoint=checkpoint)
        return None
    return train(network, objective, Blobs(), settings, checkpoint=checkpoint)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_resumes_to_the_bits_of_an_unbroken_one(tmp_path, optimizer):
    whole = _train(tmp_path / "whole.pt", optimizer=optimizer)
    _train(tmp_path / "broken.pt", stop=160, optimizer=optimizer)
    assert load_checkpoint(tmp_path / "broken.pt")["seen"] == 160
    resumed = _train(tmp_path / "broken.pt", optimizer=optimizer)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    lines = (tmp_path / "broken.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["seen"] == 320


def test_training_learns():
    torch.manual_seed(0)
    network, objective = Tiny(), SoftmaxObjective(16, 4, dropout=0.0)
    epochs = []
    settings = LoopSettings(stages=(Stage(12, 1280, 32),), learning_rate=0.2)
    train(network, objective, Blobs(), settings, on_epoch=epochs.append)
    assert [entry["epoch"] for entry in epochs] == list(range(1, 21))
    assert epochs[-1]["accuracy"] > 0.9 > epochs[0]["accuracy"]


@pytest.mark.parametrize(
    ("people", "batch", "images"),
    [(4, 4, (23, 5)), (4, 4, (17,)), (2, 2, (3, 4)), (5, 3, (13, 3)), (64, 2, (7,)), (7, 9, (8,))],
)
def test_no_batch_is_of_one_image_or_of_more_than_a_pass(people, batch, images):
    class Counted(Blobs):
        def __len__(self):
            return people

        def batch(self, seed, first, count, size):
            taken.append((first, count))
            return super().batch(seed, first, count, size)

    taken, epochs = [], []
    settings = LoopSettings(stages=[Stage(12, count, batch) for count in images], learning_rate=0.1)
    train(Tiny(), SoftmaxObjective(16, 4), Counted(), settings, on_epoch=epochs.append)
    starts, counts = zip(*taken, strict=True)
    assert starts == tuple(np.cumsum((0, *counts[:-1])).tolist())
    assert sum(counts) == sum(images)
    assert min(counts) >= 2
    assert max(counts) <= max(2, min(batch, people) + (batch == 2))
    assert [entry["epoch"] for entry in epochs] == list(range(1, sum(images) // people + 1))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    settings = LoopSettings(stages=(Stage(12, 64, 32),))
    network = Tiny()
    torch.manual_seed(5)
    train(network, SoftmaxObjective(16, 4), Blobs(), settings)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_explodes_is_said():
    settings = LoopSettings(stages=(Stage(12, 640, 32),), learning_rate=1e30, clip=1e30)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(Tiny(), SoftmaxObjective(16, 4), Blobs(), settings)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch.save({"format": 7}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="must have format 1"):
        load_checkpoint(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("x")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "text.pt")


def test_a_failed_checkpoint_keeps_the_old_one(tmp_path, monkeypatch):
    _train(tmp_path / "run.pt", stop=96)
    before = (tmp_path / "run.pt").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        _train(tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == before


def test_each_pass_draws_every_row_once():
    drawn = np.concatenate([pass_order(10, 3, first, 4) for first in range(0, 40, 4)])
    for number in range(4):
        assert sorted(drawn[10 * number : 10 * number + 10]) == list(range(10))
    assert (drawn[:10] != drawn[10:20]).any()


def test_names_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="optimizer must be one of"):
        build_optimizer("adam", Tiny(), nn.Identity(), learning_rate=1, weight_decay=0)
    with pytest.raises(ValueError, match="precision must be"):
        _train(precision="half")


def test_muon_orthogonalises_each_matrix_as_its_singular_values_say():
    """Newton-Schulz maps each singular value by a polynomial and keeps the vectors."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 27), (40, 8), (8, 8, 3, 3), (12, 30))
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    Muon(parameters, lr=1.0, momentum=0.0).step()
    for parameter in parameters:
        rows = parameter.grad.reshape(len(parameter), -1).double()
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        values = values / rows.norm()
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        expected = -0.2 * max(rows.shape) ** 0.5 * (left * values) @ right
        found = parameter.detach().reshape(rows.shape).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_muon_steps_are_orthogonal_whatever_the_gradient():
    parameter = nn.Parameter(torch.zeros(8, 2, 3, 3))
    parameter.grad = torch.randn(8, 2, 3, 3) * torch.logspace(-0.5, 0.5, 8).view(-1, 1, 1, 1)
    Muon([parameter], lr=1.0, momentum=0.0).step()
    singular = torch.linalg.svdvals(parameter.detach().reshape(8, 18)) / (0.2 * 18**0.5)
    # Newton-Schulz with these coefficients lands between about 0.7 and 1.2.
    assert singular.max() < 1.3
    assert singular.min() > 0.5


def test_export_folds_batch_norm_and_answers_as_torch():
    torch.manual_seed(0)
    network = build_network("squeezefaceposenet", batch_norm=True)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 48, 48) * 2 + 1)
    network.eval()
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert sum(p.numel() for p in folded.parameters()) == 1_235_496
    images = torch.randn(2, 3, 113, 113)
    with torch.inference_mode():
        expected = network(images).numpy()
        np.testing.assert_allclose(folded(images).numpy(), expected, rtol=1e-3, atol=1e-5)
        data = to_onnx(network, 113)
        assert check_parity(folded, data, 113) < 1e-4
        for count in (1, 2):
            got = OnnxModel(data).run(images[:count].numpy())
            assert np.abs(got - expected[:count]).max() < 1e-4 * expected.max()


def test_parity_is_really_checked():
    first, second = build_network("squeezefaceposenet"), build_network("squeezefaceposenet")
    with pytest.raises(ValueError, match="must answer as torch"):
        check_parity(first.eval(), to_onnx(second, 40), 40)


def test_shipped_graph_has_the_papers_layers_only():
    import onnx

    graph = onnx.load_from_string(read_artifact("plain").model).graph
    kinds = {node.op_type for node in graph.node}
    assert kinds <= {"Conv", "Relu", "MaxPool", "Concat", "ReduceMean", "Constant"}
    assert sum(node.op_type == "Conv" for node in graph.node) == 26
    parameters = [t for t in graph.initializer if t.name.endswith((".weight", ".bias"))]
    assert sum(int(np.prod(t.dims)) for t in parameters) == 1_235_496
    model = onnx.load_from_string(read_artifact("plain").model)
    assert model.opset_import[0].version >= 17
    assert len(read_artifact("plain").model) < 5_000_000
    assert len(read_artifact("landmarks").model) < 500_000


def test_onnx_goes_back_into_torch_and_out_again():
    artifact = read_artifact("plain")
    network = network_from_artifact(artifact).eval()
    size = artifact.manifest["input"]["size"]
    assert check_parity(network, artifact.model, size) < 1e-4
    # Equal tensors are merged by exporters; the way back must still find each one.
    fresh = build_network("squeezefaceposenet").eval()
    again = network_from_artifact(Artifact(to_onnx(fresh, 40), {"network": "squeezefaceposenet"}))
    for name, value in fresh.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_weights_that_do_not_fit_are_refused():
    landmarks = read_artifact("landmarks")
    with pytest.raises(ValueError, match="weights must hold conv1"):
        network_from_artifact(Artifact(landmarks.model, {"network": "squeezefaceposenet"}))
    with pytest.raises(ValueError, match="network must be one of"):
        network_from_artifact(landmarks)


def test_scaling_the_descriptor_scales_its_values_only():
    torch.manual_seed(0)
    network = build_network("squeezefaceposenet").eval()
    images = torch.randn(2, 3, 40, 40)
    scale = torch.rand(1000) + 0.5
    with torch.inference_mode():
        expected = network(images) * scale
    scale_descriptor(network, scale)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), expected)
    with pytest.raises(ValueError, match="must be positive"):
        scale_descriptor(network, torch.zeros(1000))


def test_sampling_follows_its_matrix():
    photo = torch.zeros(1, 60, 80, 3, dtype=torch.uint8)
    photo[..., 0] = torch.arange(80)
    photo[..., 1] = torch.arange(60)[:, None]
    matrix = torch.tensor([[[20.0, 0, 30], [0, 20.0, 10], [0, 0, 1]]])
    crop = sample_images(photo, matrix, 20)[0] * 255
    torch.testing.assert_close(crop[0, 4], torch.arange(30, 50).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(crop[1, :, 4], torch.arange(10, 30).float(), atol=1e-3, rtol=0)
    mirrored = sample_images(photo, matrix @ mirror_matrices(torch.tensor([True])), 20)[0] * 255
    torch.testing.assert_close(mirrored, crop.flip(2), atol=1e-3, rtol=0)
    finer = sample_images(photo, matrix, 10, oversample=2)[0] * 255
    torch.testing.assert_close(finer, torch.nn.functional.avg_pool2d(crop, 2), atol=1e-3, rtol=0)


def test_jitter_spreads_as_told_about_the_centre():
    torch.manual_seed(0)
    none = jitter_matrices(3, GeometryJitter(), device=torch.device("cpu"))
    torch.testing.assert_close(none, torch.eye(3).repeat(3, 1, 1))
    many = jitter_matrices(20_000, GeometryJitter(turn=10, shift=0.05), device=torch.device("cpu"))
    centre = many @ torch.tensor([0.5, 0.5, 1.0])
    assert centre[:, :2].std(0).tolist() == pytest.approx([0.05, 0.05], rel=0.05)
    angle = torch.rad2deg(torch.atan2(many[:, 1, 0], many[:, 0, 0]))
    assert float(angle.std()) == pytest.approx(10, rel=0.05)


def test_light_changes_stay_images():
    torch.manual_seed(0)
    crops = torch.rand(64, 3, 24, 24)
    changed = photometric_jitter(crops.clone())
    assert changed.shape == crops.shape
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    assert (changed - crops).abs().mean() > 0.02
    assert torch.equal(photometric_jitter(crops, strength=0), crops)


def test_hellinger_features_bound_chi_square():
    rows = torch.relu(torch.randn(6, 1000, generator=torch.Generator().manual_seed(0)))
    shares = (rows / rows.sum(1, keepdim=True)).double()
    x, y = shares[:, None], shares[None]
    chi = ((x - y) ** 2 / (x + y).clamp(min=1e-30)).sum(2)
    features = hellinger_features(rows).double()
    square = ((features[:, None] - features[None]) ** 2).sum(2)
    apart = ~torch.eye(6, dtype=torch.bool)
    ratio = (chi / square.clamp(min=1e-12))[apart]
    assert 1.0 < float(ratio.min()) <= float(ratio.max()) < 2.2


def test_a_start_of_which_nothing_fits_is_refused(tmp_path):
    _train(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="must have layers of SqueezeFacePoseNet; none fits"):
        start_network(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="must have layers of ResNet50; none fits"):
        start_network("plain", "resnet50")
