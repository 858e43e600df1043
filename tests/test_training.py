"""Training: exact resume, parity of exports, learning on a small problem."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import procrustes

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from torch import nn  # noqa: E402

from sfpose.cli import main  # noqa: E402
from sfpose.networks import build_network  # noqa: E402
from sfpose.pose import FACE_POINTS  # noqa: E402
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
from sfpose.training.distillation import (  # noqa: E402
    TaughtFaceSource,
    normalise_images,
    teacher_targets,
)
from sfpose.training.export import (  # noqa: E402
    check_parity,
    fold_batch_norm,
    network_from_artifact,
    scale_descriptor,
    to_onnx,
)
from sfpose.training.faces import TaughtFaces, load_taught_faces, pass_order  # noqa: E402
from sfpose.training.landmarks import (  # noqa: E402
    LandmarkObjective,
    LandmarkSource,
    train_landmarks,
)
from sfpose.training.loop import LoopSettings, Stage, train  # noqa: E402
from sfpose.training.objectives import (  # noqa: E402
    DistillationObjective,
    SoftmaxObjective,
    hellinger_features,
)
from sfpose.training.optimizers import OPTIMIZERS, Muon, build_optimizer  # noqa: E402
from sfpose.training.recipes import (  # noqa: E402
    DistillationRecipe,
    distil,
    shorter,
    teacher_agreement,
)
from sfpose.training.settings import falling_stages  # noqa: E402
from sfpose.training.starts import start_network  # noqa: E402
from sfpose.training.turning import FaceTurner  # noqa: E402


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


def _faces(count=24, side=48):
    rng = np.random.default_rng(0)
    base = np.array([[16, 18], [32, 18], [24, 26], [18, 33], [30, 33]], np.float32)
    embeddings = rng.normal(size=(count, 8)).astype(np.float32)
    return TaughtFaces(
        photos=rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8),
        landmarks=base + rng.normal(0, 1, (count, 5, 2)).astype(np.float32),
        scores=np.r_[np.zeros(2), np.full(count - 2, 0.9)].astype(np.float32),
        embeddings=embeddings,
        mirror_embeddings=embeddings + 0.1,
        held_out=np.arange(count) >= count - 4,
    )


def test_held_out_and_unfound_faces_are_never_trained_on():
    faces = _faces()
    source = TaughtFaceSource(faces)
    assert source.rows.tolist() == list(range(2, 20))
    drawn = {int(i) for first in range(0, 54, 6) for i in source.batch(0, first, 6, 32)[1]}
    assert drawn == set(range(18))
    assert len(LandmarkSource(faces)) == 18
    torch.testing.assert_close(source.bank.norm(dim=1), torch.ones(18))
    np.testing.assert_allclose(teacher_targets(faces)[source.rows], source.bank.numpy())


class _BlackTurner:
    """Stands for a FaceTurner: counts the faces that it is given and draws them black."""

    def __init__(self):
        self.given = 0

    def turn(self, photos, cameras):
        assert len(photos) == len(cameras)
        self.given += len(photos)
        return self

    def seen_through(self, matrices, size):
        return torch.zeros(len(matrices), 3, size, size)


def test_as_many_faces_are_turned_as_asked_for():
    for share, least, most in ((0.0, 0, 0), (0.5, 50, 94), (1.0, 144, 144)):
        turner = _BlackTurner()
        source = TaughtFaceSource(_faces(), turner=turner, turned_share=share)
        for first in range(0, 144, 18):
            source.batch(0, first, 18, 32)
        assert least <= turner.given <= most


def test_light_is_changed_as_strongly_as_asked_for():
    faces = _faces()
    faces.photos[:] = 100
    for strength, changed in ((0.0, False), (1.0, True)):
        images, _ = TaughtFaceSource(faces, light=strength).batch(0, 0, 12, 32)
        brightest = images.amax((2, 3))
        unchanged = normalise_images(torch.full((12, 3, 1, 1), 100 / 255))[:, :, 0, 0]
        assert torch.allclose(brightest, unchanged, atol=1e-4) != changed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"light": -0.1}, "light must be at least 0; got -0.1"),
        ({"jitter": -1}, "jitter must be at least 0; got -1"),
        ({"turned_share": 1.5}, "turned_share must be between 0 and 1; got 1.5"),
        ({"turned_share": float("nan")}, "turned_share must be between 0 and 1; got nan"),
        ({"blend_share": -0.5}, "blend_share must be between 0 and 1; got -0.5"),
    ],
)
def test_shares_and_strengths_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        TaughtFaceSource(_faces(), **wrong)


def test_distillation_recognises_its_own_targets_among_many():
    torch.manual_seed(0)
    bank = nn.functional.normalize(torch.randn(500, 16), dim=1)
    objective = DistillationObjective(bank, 64, hellinger_bank=200)
    codes = nn.functional.softplus(objective.code(bank[:32])).detach()
    right, measured = objective(codes, torch.arange(32))
    wrong, other = objective(codes, torch.arange(32) + 100)
    assert measured["hellinger_loss"] < 0.1 < other["hellinger_loss"]
    assert right < wrong


def test_a_whole_bank_is_contrasted_and_a_target_drawn_again_is_no_wrong_answer():
    torch.manual_seed(0)
    bank = nn.functional.normalize(torch.randn(3, 16), dim=1)
    # Drawn so often that every row is there: what is left of the bank are copies.
    objective = DistillationObjective(bank, 64, cosine_bank=2000, hellinger_bank=1)
    descriptors = torch.rand(3, 64)
    _, measured = objective.eval()(descriptors, torch.arange(3))
    features = hellinger_features(objective.scaled(descriptors))
    mapped = nn.functional.normalize(objective.linear(features), dim=1).detach().double()
    similar = mapped @ bank.T.double() / 0.07
    wrong = 1 + 2000 / 3  # copies of each of the two others, on average
    own = similar.diagonal().exp()
    others = similar.exp().sum(1) - own
    expected = -(own / (own + wrong * others)).log().mean()
    assert measured["cosine_loss"] == pytest.approx(float(expected), abs=0.1)


def test_without_the_second_contrast_only_the_map_is_taught():
    torch.manual_seed(0)
    bank = nn.functional.normalize(torch.randn(50, 16), dim=1)
    kinds = {"cosine_bank": 40, "hellinger_bank": 40}
    both = DistillationObjective(bank, 64, **kinds).eval()
    one = DistillationObjective(bank, 64, **kinds, cosine_weight=3.0, hellinger_weight=0.0).eval()
    one.load_state_dict(both.state_dict())
    descriptors, targets = torch.rand(8, 64), torch.arange(8)
    torch.manual_seed(1)
    loss, measured = both(descriptors, targets)
    torch.manual_seed(1)
    alone, found = one(descriptors, targets)
    assert sorted(found) == ["cosine", "cosine_loss", "loss"]
    assert found["cosine_loss"] == measured["cosine_loss"]
    assert alone.item() == pytest.approx(found["cosine_loss"] + 3 * (1 - found["cosine"]), abs=1e-5)
    added = measured["cosine_loss"] + 1 - measured["cosine"] + measured["hellinger_loss"]
    assert loss.item() == pytest.approx(added, abs=1e-5)
    alone.backward()
    assert one.code.weight.grad is None
    assert bool(one.linear.weight.grad.any())


def test_a_network_takes_from_weights_of_another_architecture_what_both_have():
    start = start_network("plain", "squeezefaceposenet+dwc")
    whole = start_network("plain").network.state_dict()
    assert start.name == "squeezefaceposenet+dwc"
    assert start.new_layers == [
        f"fire{number}.expand3x3.0.{what}" for number in range(2, 10) for what in ("weight", "bias")
    ]
    for name, value in start.network.state_dict().items():
        if name not in start.new_layers:
            assert torch.equal(value, whole[name])
    wider = start_network("plain", "squeezefaceposenet+gdc", input_size=64)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            wider.network.eval()(images),
            start_network("plain").network.eval()(images),
            rtol=1e-3,
            atol=1e-4,
        )


def test_a_start_of_which_nothing_fits_is_refused(tmp_path):
    _train(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="must have layers of SqueezeFacePoseNet; none fits"):
        start_network(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="must have layers of ResNet50; none fits"):
        start_network("plain", "resnet50")


def test_landmark_targets_are_where_the_crop_shows_the_landmarks():
    """Draw each landmark as a coloured dot and find it again in the augmented crop."""
    faces = _faces()
    photos = np.zeros_like(faces.photos)
    whole = np.round(faces.landmarks).astype(int)
    for row in range(len(photos)):
        x, y = whole[row, 2]
        photos[row, y - 1 : y + 2, x - 1 : x + 2] = 255
    faces = TaughtFaces(
        **{**vars(faces), "photos": photos, "landmarks": (whole + 0.5).astype(np.float32)}
    )
    torch.manual_seed(0)
    source = LandmarkSource(faces, non_faces=0.0)
    crops, targets = source.batch(0, 0, 18, 64)
    seen = 0
    for crop, target in zip(crops, targets, strict=True):
        nose = target[4:6] * 64
        if not bool(((nose > 4) & (nose < 60)).all()):
            continue
        weights = (crop.mean(0) - crop.mean(0).min()) ** 3
        steps = torch.arange(64) + 0.5
        found = (
            torch.stack([(weights.sum(0) * steps).sum(), (weights.sum(1) * steps).sum()])
            / weights.sum()
        )
        if (found - nose).norm() < 2.5:
            seen += 1
    assert seen >= 12


def test_non_faces_teach_the_score_and_no_landmark():
    torch.manual_seed(0)
    crops, targets = LandmarkSource(_faces(), non_faces=0.5).batch(0, 0, 10, 64)
    assert crops.shape == (10, 3, 64, 64)
    none = targets[:, 10] == 0
    assert none.sum() == 5
    assert targets[none, :10].isnan().all()
    assert targets[~none].isfinite().all()
    outputs = targets.clone()
    outputs[none, :10] = 0.3
    outputs[:, 10] = torch.where(targets[:, 10] > 0, 20.0, -20.0)
    loss, measured = LandmarkObjective()(outputs, targets)
    assert float(loss) < 1e-6
    assert measured["face_accuracy"] == 1


def test_the_face_score_is_taught_without_moving_a_landmark(tmp_path):
    settings = LoopSettings(stages=(Stage(64, 24, 8),), optimizer="muon", learning_rate=1e-3)
    taught = train_landmarks(
        _faces(),
        tmp_path / "score.pt",
        start="landmarks",
        only_score=True,
        settings=settings,
        progress=False,
    )
    images = np.random.default_rng(0).normal(size=(5, 3, 64, 64)).astype(np.float32)
    before, after = (
        OnnxModel(artifact.model).run(images) for artifact in (read_artifact("landmarks"), taught)
    )
    np.testing.assert_array_equal(before[:, :10], after[:, :10])
    assert np.abs(before[:, 10] - after[:, 10]).min() > 1e-4
    assert (
        taught.manifest["min_face_score"] == read_artifact("landmarks").manifest["min_face_score"]
    )


def test_turned_faces_teach_landmarks_that_are_known(shared_data):
    """Beside the drawn points of the generic face there is nothing to learn from a detector."""
    surface = shared_data.parent / "models" / "canonical_face.safetensors"
    turner = FaceTurner(surface, size=96, margin=1.4, yaws=(60,), pitches=(0,))
    source = LandmarkSource(_faces(), turner=turner, turned=0, non_faces=0)
    torch.manual_seed(0)
    _, targets = source.batch(0, 0, 18, 64)
    angle = np.deg2rad(60)
    cosine, sine = np.cos(angle), np.sin(angle)
    # sfpose.pose has z away from the viewer; up to a similarity these are the points.
    turn = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    seen = (FACE_POINTS @ turn.T)[:, :2]
    found = 0
    for points in targets[12:, :10].reshape(-1, 5, 2).numpy().astype(float):
        both = (points, (points * [-1, 1])[[1, 0, 2, 4, 3]])
        found += min(procrustes(seen, one)[2] for one in both) < 0.01
    assert 0 < found < 6


def test_landmarks_start_from_landmarks_alone(tmp_path):
    with pytest.raises(ValueError, match="start must be a landmark network; no layer of 'plain'"):
        train_landmarks(_faces(), tmp_path / "a.pt", start="plain", progress=False)


def test_recipes_run_from_start_to_artifact(tmp_path):
    faces = _faces()
    loop = LoopSettings(stages=(Stage(32, 12, 6),), optimizer="muon", learning_rate=1e-3)
    loop = falling_stages(loop, [(32, 6), (40, 18)], [2e-3])
    assert loop.stages == (Stage(32, 6, 6, (1.0, 0.75)), Stage(40, 18, 6, (0.75, 0.0)))
    assert loop.learning_rate == 2e-3
    held = falling_stages(loop, [(32, 6), (40, 18)], [2e-3, 1e-3])
    assert held.stages == (Stage(32, 6, 6, (1.0, 0.5)), Stage(40, 18, 6, (0.5, 0.0)))
    recipe = DistillationRecipe(loop=loop)
    halved = shorter(DistillationRecipe(loop=LoopSettings(stages=(Stage(32, 64, 8),))), 0.5)
    assert halved.loop.total == 32
    artifact, _ = distil(faces, tmp_path / "distil.pt", recipe=recipe, progress=False)
    assert artifact.manifest["descriptor"] == {"size": 1000, "normalization": "l1"}
    landmarks = train_landmarks(
        faces,
        tmp_path / "landmarks.pt",
        settings=LoopSettings(stages=(Stage(64, 12, 6),), optimizer="muon", learning_rate=1e-3),
        progress=False,
    )
    assert len(landmarks.model) < 500_000


def test_agreement_with_the_teacher_is_over_the_right_photos():
    class Constant(nn.Module):
        def forward(self, images):
            return torch.arange(1.0, 33.0).repeat(len(images), 1)

    faces = _faces()
    torch.manual_seed(0)
    objective = DistillationObjective(torch.eye(8), 32)
    found = teacher_agreement(Constant(), objective, faces, faces.landmarks, 32)
    shares = np.arange(1.0, 33.0)
    roots = np.sqrt(shares / shares.sum() + 1e-4)
    answer = objective.linear.weight.detach().double().numpy() @ (roots / np.linalg.norm(roots))
    cosines = teacher_targets(faces) @ (answer / np.linalg.norm(answer))
    assert found["training"] == pytest.approx(cosines[2:20].mean(), abs=1e-5)
    assert found["held_out"] == pytest.approx(cosines[20:].mean(), abs=1e-5)


def test_a_run_goes_on_from_what_another_one_of_another_network_learned(tmp_path, caplog):
    loop = LoopSettings(stages=(Stage(32, 12, 6),), optimizer="muon", learning_rate=1e-3)
    recipe = DistillationRecipe(loop=loop)
    first = tmp_path / "first.pt"
    distil(_faces(), first, recipe=recipe, progress=False)
    assert caplog.text == ""  # from nothing, all is new
    learned = load_checkpoint(first)
    still = replace(loop, learning_rate=0.0)
    small = replace(recipe, network="squeezefaceposenet+dwc", loop=still)
    artifact, _ = distil(
        _faces(), tmp_path / "second.pt", start=first, recipe=small, name="small", progress=False
    )
    assert "begun anew: fire2.expand3x3.0.weight, fire2.expand3x3.0.bias" in caplog.text
    assert "conv10" not in caplog.text
    assert artifact.manifest["network"] == "squeezefaceposenet+dwc"
    assert artifact.manifest["name"] == "small"
    second = load_checkpoint(tmp_path / "second.pt")
    for name in ("linear.weight", "code.weight", "code.bias"):
        assert torch.equal(second["objective"][name], learned["objective"][name])
    for name in ("fire3.squeeze.0.weight", "fire3.expand1x1.0.weight", "conv10.0.weight"):
        assert torch.equal(second["averaged"][name], learned["averaged"][name])
    assert second["averaged"]["fire3.expand3x3.0.weight"].shape == (64, 1, 3, 3)


def test_frozen_modules_learn_nothing_and_the_others_as_ever(tmp_path, taught_faces):
    faces = taught_faces(128)
    loop = LoopSettings(stages=(Stage(100, 12, 6),), optimizer="muon", learning_rate=1e-3)
    recipe = DistillationRecipe(loop=loop, frozen=("conv1", "fire2"))
    distil(faces, tmp_path / "run.pt", start="default", recipe=recipe, progress=False)
    before = network_from_artifact(read_artifact("default")).state_dict()
    after = load_checkpoint(tmp_path / "run.pt")["network"]
    for look in ("whole", "centre", "coarse"):
        for name in ("conv1.0.weight", "conv1.0.bias", "fire2.expand3x3.0.bias"):
            assert torch.equal(after[f"{look}.{name}"], before[f"{look}.{name}"])
        for name in ("fire3.squeeze.0.weight", "fire9.squeeze.0.bias"):
            assert not torch.equal(after[f"{look}.{name}"], before[f"{look}.{name}"])
    wrong = replace(recipe, frozen=("fire2", "fire1"))
    with pytest.raises(ValueError, match=r"frozen must name modules .* it has no \['fire1'\]"):
        distil(faces, tmp_path / "wrong.pt", start="default", recipe=wrong, progress=False)
    with pytest.raises(ValueError, match="frozen modules must have a start to keep; got none for"):
        distil(faces, tmp_path / "wrong.pt", recipe=recipe, progress=False)


@pytest.mark.parametrize("what", ["distil", "landmarks"])
def test_stages_of_ones_own_are_checked_before_anything_is_read(what, tmp_path, capsys):
    command = ["train", what, "nowhere", "--out", str(tmp_path / "out"), "--stages"]
    assert main([*command, "64:200"]) == 2
    assert "--stages and --rate go together" in capsys.readouterr().err
    for wrong in ("64", "64:0", "64:200:3", "a:b"):
        with pytest.raises(SystemExit):
            main([*command, wrong, "--rate", "0.001"])
        assert "must be SIZE:IMAGES" in capsys.readouterr().err
    for wrong in (["1", "1", "1"], ["0"], ["1", "-1"]):
        assert main([*command, "48:200", "64:200", "--rate", *wrong]) == 2
        assert "rates must be" in capsys.readouterr().err


def test_settings_of_ones_own_go_into_the_run(tmp_path, monkeypatch):
    recipes = []
    drawn = []

    def distil(*_, recipe, **__):
        recipes.append(recipe)
        raise ValueError("enough")

    def make(*_, seed, **__):
        drawn.append(seed)

    monkeypatch.setattr("sfpose.training.faces.load_taught_faces", lambda *_: _faces())
    monkeypatch.setattr("sfpose.training.landmarks.find_own_landmarks", lambda *_: None)
    monkeypatch.setattr("sfpose.training.recipes.distil", distil)
    monkeypatch.setattr("sfpose.training.teachers.OnnxTeacher", lambda _: torch.nn.Identity())
    monkeypatch.setattr("sfpose.training.mixing.make_blends", make)
    monkeypatch.setattr("sfpose.training.surroundings.make_surrounded", make)
    monkeypatch.setattr("sfpose.training.mixing.joined", lambda _: None)
    teacher = tmp_path / "teacher.onnx"
    teacher.touch()
    command = ["train", "distil", "data", "--out", str(tmp_path / "out")]
    own = ["--seed", "7", "--turned", "0.1", "--light", "0.5", "--freeze", "conv1", "fire2"]
    own += ["--jitter", "0.4", "--face-surface", "face.safetensors", "--scale", "2"]
    own += ["--teacher", str(teacher), "--mixed", "5", "--mixed-share", "0.7"]
    own += ["--surrounded", "3", "--mixed-seed", "2"]
    own += ["--batch-size", "32", "--device", "cpu", "--compile", "--spread"]
    for given in ([], own):
        assert main([*command, *given]) == 2
    assert recipes[0] == DistillationRecipe()
    changed = recipes[1]
    assert (changed.turned_share, changed.light, changed.blend_share) == (0.1, 0.5, 0.7)
    assert changed.jitter == 0.4
    assert drawn == [2, 2]
    assert changed.frozen == ("conv1", "fire2")
    assert changed.spread
    loop = changed.loop
    assert (loop.seed, loop.device, loop.compiled) == (7, "cpu", True)
    assert {stage.batch_size for stage in loop.stages} == {32}
    assert [stage.images for stage in loop.stages] == [
        2 * stage.images for stage in DistillationRecipe().loop.stages
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--batch-size", "1"], "--batch-size must be at least 2; got 1"),
        (["--mixed", "-1"], "--mixed must be at least 0; got -1"),
        (["--mixed", "5"], "as they with it; got no --teacher"),
        (["--zooms", "0.9"], "as they with it; got no --teacher"),
        (["--mixed-from", "30"], "must be given with --mixed; got no --mixed"),
        (["--mixed-share", "0"], "must be given with --mixed or --surrounded; got neither"),
        (["--mixed-seed", "0"], "must be given with --mixed or --surrounded; got neither"),
        (["--mixed-seed", "-1"], "--mixed-seed must be at least 0; got -1"),
        (["--surrounded", "-1"], "--surrounded must be at least 0; got -1"),
        (["--surrounded", "5"], "as they with it; got no --teacher"),
        (["--teacher", "a.onnx"], "--teacher must be given with --zooms, --mixed or --surrounded"),
        (["--turned", "0.1"], "--turned must be given with --face-surface; got no --face-surface"),
        (["--calibrate-people", "1-50"], "must be given with --calibrate-on; got no"),
        (["--calibrate-on", "no-cfp"], "no-cfp"),
        (["--scale", "2", "--stages", "64:200", "--rate", "0.1"], "without --stages"),
        (["--scale", "0"], "--scale must be above 0 and finite; got 0.0"),
        (["--scale", "nan"], "--scale must be above 0 and finite; got nan"),
    ],
)
def test_options_that_ask_for_nothing_are_refused(wrong, message, tmp_path, capsys):
    assert main(["train", "distil", "nowhere", "--out", str(tmp_path / "out"), *wrong]) == 2
    assert message in capsys.readouterr().err


def test_options_that_cannot_be_met_are_refused_before_anything_is_read(tmp_path, capsys):
    def refused(command, message):
        assert main(command) == 2
        assert message in capsys.readouterr().err

    taken, file = tmp_path / "taken", tmp_path / "file"
    (taken / "thesis").mkdir(parents=True)
    file.write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"format": "sfpose-artifact"}')
    for what in (["distil", "nowhere"], ["landmarks", "nowhere"], ["paper", "--stage1", "nowhere"]):
        command = ["train", *what, "--out"]
        for out in (taken, file):
            refused([*command, str(out)], "what is overwritten must be of the same format")
        refused([*command, str(file / "new")], "--out must lie in a folder that can be written to")
        new = [*command, str(tmp_path / "new" / "one")]
        refused([*new, "--threads", "0"], "--threads must be at least 1; got 0")
        for device in ("gpu", "cuda:99", "meta"):
            refused([*new, "--device", device], f"torch finds here; got '{device}'")
        # An artifact is replaced, so that the data are looked for.
        refused([*command, str(tmp_path / "mine")], "nowhere")
    landmarks = ["train", "landmarks", "nowhere", "--out", str(tmp_path / "new"), "--only-score"]
    refused(landmarks, "--only-score must be given with --start; got no --start")
    refused(["reproduce", "table1", "--rounds", "0"], "rounds must be at least 1; got 0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "taken"]


def test_an_out_that_nobody_may_write_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main(["train", "distil", "nowhere", "--out", str(tmp_path / "out")]) == 2
    assert "--out must lie in a folder that can be written to" in capsys.readouterr().err


def test_stored_faces_are_read(shared_data, tmp_path, monkeypatch):
    import sfpose.training.faces as module

    monkeypatch.setattr(
        module,
        "decode_archives",
        lambda archives, names, cache: np.zeros((len(names), 1, 1, 3), np.uint8),
    )
    faces = load_taught_faces(shared_data, tmp_path)
    assert len(faces.landmarks) == 45_000
    assert faces.held_out.sum() == 5_000
    assert np.isfinite(teacher_targets(faces)).all()


def test_archives_that_lack_an_image_are_refused(tmp_path):
    from sfpose.training.faces import decode_archives

    with pytest.raises(ValueError, match=r"1 are not, the first is 'a\.jpg'"):
        decode_archives([], ["a.jpg"], tmp_path / "cache.npy")
