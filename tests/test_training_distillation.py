"""Distillation: which faces are learned from, the objective, starts, recipes, the command."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from torch import nn  # noqa: E402

from sfpose.cli import main  # noqa: E402
from sfpose.pose import head_cameras  # noqa: E402
from sfpose.runtime.artifact import read_artifact  # noqa: E402
from sfpose.training.checkpoints import load_checkpoint  # noqa: E402
from sfpose.training.distillation import TaughtFaceSource, normalise_images, teacher_targets  # noqa: E402
from sfpose.training.export import network_from_artifact  # noqa: E402
from sfpose.training.faces import load_taught_faces  # noqa: E402
from sfpose.training.landmarks import LandmarkSource, train_landmarks  # noqa: E402
from sfpose.training.loop import LoopSettings, Stage  # noqa: E402
from sfpose.training.objectives import DistillationObjective, hellinger_features  # noqa: E402
from sfpose.training.recipes import DistillationRecipe, distil, shorter, teacher_agreement  # noqa: E402
from sfpose.training.settings import falling_stages  # noqa: E402
from sfpose.training.starts import start_network  # noqa: E402


def test_held_out_and_unfound_faces_are_never_trained_on(noise_faces):
    source = TaughtFaceSource(noise_faces)
    assert source.rows.tolist() == list(range(2, 20))
    drawn = {int(i) for first in range(0, 54, 6) for i in source.batch(0, first, 6, 32)[1]}
    assert drawn == set(range(18))
    assert len(LandmarkSource(noise_faces)) == 18
    torch.testing.assert_close(source.bank.norm(dim=1), torch.ones(18))
    np.testing.assert_allclose(teacher_targets(noise_faces)[source.rows], source.bank.numpy())


class _BlackTurner:
    """Stands for a FaceTurner: counts the faces that it is given and draws them black."""

    def __init__(self):
        self.given, self.cameras, self.padding = 0, [], set()

    def turn(self, photos, cameras, *, padding):
        assert len(photos) == len(cameras)
        self.given += len(photos)
        self.cameras.append(cameras)
        self.padding.add(padding)
        return self

    def seen_through(self, matrices, size):
        return torch.zeros(len(matrices), 3, size, size)


def test_heads_are_turned_by_the_landmarks_that_align_them(noise_faces):
    """And what lies beyond their photos is drawn as in the other images of the batch."""
    own = noise_faces.landmarks + np.float32(3.0)
    turner = _BlackTurner()
    source = TaughtFaceSource(noise_faces, own, turner=turner, turned_share=1.0)
    for first in range(0, 144, 18):
        source.batch(0, first, 18, 32)
    known = head_cameras(own[source.rows])
    for camera in torch.cat(turner.cameras).numpy():
        assert np.abs(known - camera).max((1, 2)).min() < 1e-3
    assert turner.padding == {"zeros", "reflection"}


def test_turned_faces_are_drawn_finer_than_they_are_seen(noise_faces, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def turner(surface, size, *, device):
        raise Seen(surface, size)

    monkeypatch.setattr("sfpose.training.recipes.FaceTurner", turner)
    recipe = DistillationRecipe(network="squeezefaceposenet")
    with pytest.raises(Seen) as caught:
        distil(noise_faces, tmp_path / "run.pt", recipe=recipe, face_surface="face")
    assert caught.value.args == ("face", 2 * recipe.size)


def test_as_many_faces_are_turned_as_asked_for(noise_faces):
    for share, least, most in ((0.0, 0, 0), (0.5, 50, 94), (1.0, 144, 144)):
        turner = _BlackTurner()
        source = TaughtFaceSource(noise_faces, turner=turner, turned_share=share)
        for first in range(0, 144, 18):
            source.batch(0, first, 18, 32)
        assert least <= turner.given <= most


def test_light_is_changed_as_strongly_as_asked_for(noise_faces):
    noise_faces.photos[:] = 100
    for strength, changed in ((0.0, False), (1.0, True)):
        images, _ = TaughtFaceSource(noise_faces, light=strength).batch(0, 0, 12, 32)
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
def test_shares_and_strengths_are_checked(wrong, message, noise_faces):
    with pytest.raises(ValueError, match=message):
        TaughtFaceSource(noise_faces, **wrong)


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


def test_recipes_run_from_start_to_artifact(tmp_path, noise_faces):
    loop = LoopSettings(stages=(Stage(32, 12, 6),), optimizer="muon", learning_rate=1e-3)
    loop = falling_stages(loop, [(32, 6), (40, 18)], [2e-3])
    assert loop.stages == (Stage(32, 6, 6, (1.0, 0.75)), Stage(40, 18, 6, (0.75, 0.0)))
    assert loop.learning_rate == 2e-3
    held = falling_stages(loop, [(32, 6), (40, 18)], [2e-3, 1e-3])
    assert held.stages == (Stage(32, 6, 6, (1.0, 0.5)), Stage(40, 18, 6, (0.5, 0.0)))
    recipe = DistillationRecipe(loop=loop)
    halved = shorter(DistillationRecipe(loop=LoopSettings(stages=(Stage(32, 64, 8),))), 0.5)
    assert halved.loop.total == 32
    artifact, _ = distil(noise_faces, tmp_path / "distil.pt", recipe=recipe, progress=False)
    assert artifact.manifest["descriptor"] == {"size": 1000, "normalization": "l1"}
    landmarks = train_landmarks(
        noise_faces,
        tmp_path / "landmarks.pt",
        settings=LoopSettings(stages=(Stage(64, 12, 6),), optimizer="muon", learning_rate=1e-3),
        progress=False,
    )
    assert len(landmarks.model) < 500_000


def test_agreement_with_the_teacher_is_over_the_right_photos(noise_faces):
    class Constant(nn.Module):
        def forward(self, images):
            return torch.arange(1.0, 33.0).repeat(len(images), 1)

    torch.manual_seed(0)
    objective = DistillationObjective(torch.eye(8), 32)
    found = teacher_agreement(Constant(), objective, noise_faces, noise_faces.landmarks, 32)
    shares = np.arange(1.0, 33.0)
    roots = np.sqrt(shares / shares.sum() + 1e-4)
    answer = objective.linear.weight.detach().double().numpy() @ (roots / np.linalg.norm(roots))
    cosines = teacher_targets(noise_faces) @ (answer / np.linalg.norm(answer))
    assert found["training"] == pytest.approx(cosines[2:20].mean(), abs=1e-5)
    assert found["held_out"] == pytest.approx(cosines[20:].mean(), abs=1e-5)


def test_a_run_goes_on_from_what_another_one_of_another_network_learned(
    tmp_path, caplog, noise_faces
):
    loop = LoopSettings(stages=(Stage(32, 12, 6),), optimizer="muon", learning_rate=1e-3)
    recipe = DistillationRecipe(loop=loop)
    first = tmp_path / "first.pt"
    distil(noise_faces, first, recipe=recipe, progress=False)
    assert caplog.text == ""  # from nothing, all is new
    learned = load_checkpoint(first)
    still = replace(loop, learning_rate=0.0)
    small = replace(recipe, network="squeezefaceposenet+dwc", loop=still)
    artifact, _ = distil(
        noise_faces, tmp_path / "second.pt", start=first, recipe=small, name="small", progress=False
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


def test_settings_of_ones_own_go_into_the_run(tmp_path, monkeypatch, noise_faces):
    recipes = []
    drawn = []

    def distil(*_, recipe, **__):
        recipes.append(recipe)
        raise ValueError("enough")

    def make(*_, seed, **__):
        drawn.append(seed)

    monkeypatch.setattr("sfpose.training.faces.load_taught_faces", lambda *_: noise_faces)
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
            refused([*command, str(out)], "must not exist, or --overwrite be given")
            refused([*command, str(out), "--overwrite"], "what is overwritten must be of the same")
        refused([*command, str(file / "new")], "--out must lie in a folder that can be written to")
        new = [*command, str(tmp_path / "new" / "one")]
        refused([*new, "--threads", "0"], "--threads must be at least 1; got 0")
        for device in ("gpu", "cuda:99", "meta"):
            refused([*new, "--device", device], f"torch finds here; got '{device}'")
        # It may hold the only thresholds of weights that are in use.
        refused([*command, str(tmp_path / "mine")], "must not exist, or --overwrite be given")
        refused([*command, str(tmp_path / "mine"), "--overwrite"], "nowhere")
    landmarks = ["train", "landmarks", "nowhere", "--out", str(tmp_path / "new"), "--only-score"]
    refused(landmarks, "--only-score must be given with --start; got no --start")
    refused(["reproduce", "table1", "--rounds", "0"], "rounds must be at least 1; got 0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "taken"]


def test_an_out_that_nobody_may_write_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main(["train", "distil", "nowhere", "--out", str(tmp_path / "out")]) == 2
    assert "--out must lie in a folder that can be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("embedding", None, "fairface_teacher.npz must hold embedding"),
        ("score", lambda a: a[1:], r"score .* shape \(3\), as files has; got float32 \(2,\)"),
        ("embedding_flip", lambda a: a[:, 1:], r"shape \(3, 4\), as files has; got .* \(3, 3\)"),
        ("landmarks", lambda a: a[:, :4], r"shape \(3, 5, 2\), as files has"),
        ("embedding", lambda a: a * [[1], [np.nan], [1]], "finite where a face is; row 1 is not"),
        ("embedding", lambda a: a.astype(str), "must be numbers of shape"),
    ],
)
def test_stored_outputs_that_do_not_fit_are_named(tmp_path, name, change, message):
    arrays = {
        "files": np.array(["train/1.jpg", "train/2.jpg", "val/3.jpg"]),
        "landmarks": np.ones((3, 5, 2), np.float32),
        "score": np.array([1, 1, 0], np.float32),
        "embedding": np.array([[1] * 4, [2] * 4, [np.nan] * 4], np.float32),
        "embedding_flip": np.ones((3, 4), np.float32),
    }
    given = arrays.pop(name)
    if change is not None:
        arrays[name] = change(given)
    np.savez(tmp_path / "fairface_teacher.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_taught_faces(tmp_path, tmp_path)


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


def test_what_holds_no_faces_to_learn_from_is_told(tmp_path):
    (tmp_path / "photo.jpg").touch()
    for place in (tmp_path, tmp_path / "photo.jpg", tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=r"must be a folder with fairface_128_\*\.zip"):
            load_taught_faces(place, tmp_path)
