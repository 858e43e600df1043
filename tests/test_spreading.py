"""Values begun anew, spread evenly over what a teacher tells apart."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from dataclasses import replace  # noqa: E402

from sfpose.networks import build_network  # noqa: E402
from sfpose.runtime.artifact import read_artifact, write_artifact  # noqa: E402
from sfpose.training.checkpoints import load_checkpoint  # noqa: E402
from sfpose.training.export import network_from_artifact, to_onnx  # noqa: E402
from sfpose.training.loop import LoopSettings, Stage  # noqa: E402
from sfpose.training.objectives import (  # noqa: E402
    DistillationObjective,
    hellinger_features,
    spread_directions,
)
from sfpose.training.recipes import DistillationRecipe, distil  # noqa: E402
from sfpose.training.spreading import spread_values  # noqa: E402
from sfpose.training.starts import start_network  # noqa: E402

SILENT = 770


def _network(name="squeezefaceposenet"):
    """One of whose values most are silent, and some filters of fire9, as learning leaves them."""
    torch.manual_seed(0)
    network = build_network(name, input_size=40).eval()
    with torch.no_grad():
        network.conv10[0].bias[:SILENT] = -1e6
        network.fire9.expand1x1[0].bias[:40] = -1e6
        network.fire9.expand3x3[0].bias[-20:] = -1e6
    return network


@torch.no_grad()
def _faces(network, count):
    """Images, and a teacher who tells them apart by twelve sums of the network's last maps."""
    images = torch.randn(count, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    images *= torch.linspace(0.2, 3, 3)[torch.randint(3, (count, 3, 1, 1))]
    maps = network.last_maps(images).mean((2, 3))
    maps /= maps.sum(1, keepdim=True)
    sums = torch.linalg.svd(maps - maps.mean(0), full_matrices=False)[0][:, :12]
    return images, torch.nn.functional.normalize(sums)


@torch.no_grad()
def _cosine(network, learned, tested):
    """How well scikit-learn's least squares on the values foretell the teacher."""
    (images, targets), (others, wanted) = learned, tested
    shares = [network(each).sqrt().numpy() for each in (images, others)]
    found = LinearRegression().fit(shares[0], targets.numpy()).predict(shares[1])
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return float((found * wanted.numpy()).sum(1).mean())


def test_all_values_fire_and_so_do_all_filters_of_fire9():
    network = _network()
    images, targets = _faces(network, 300)
    with torch.no_grad():
        before = network.last_maps(images)
        assert int((network(images).amax(0) > 0).sum()) <= 1000 - SILENT
    woken = spread_values(network, images, targets)
    with torch.no_grad():
        maps = network.last_maps(images)
        assert bool((network(images).amax(0) > 0).all())
    silent = before.amax((0, 2, 3)) <= 0
    assert woken == int(silent.sum()) >= 60
    assert bool((maps.amax((0, 2, 3)) > 0).all())
    torch.testing.assert_close(maps[:, ~silent], before[:, ~silent])
    again = _network()
    spread_values(again, images, targets)
    for key, value in again.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])
    assert spread_values(network, images, targets) == 0


def test_new_filters_are_as_large_as_others_and_below_zero_in_half_of_all_places():
    network = _network()
    images, targets = _faces(network, 160)
    spread_values(network, images, targets)
    narrow = []
    network.fire9.squeeze.register_forward_hook(lambda _m, _g, result: narrow.append(result))
    with torch.no_grad():
        last = network.last_maps(images)
        for layer, new in ((network.fire9.expand1x1, slice(40)), (network.fire9.expand3x3, -20)):
            new = new if isinstance(new, slice) else slice(new, None)
            found = layer[0](narrow[0][:128]).transpose(0, 1).flatten(1).double()
            is_new = torch.zeros(len(found), dtype=torch.bool)
            is_new[new] = True
            size = found.std(1)
            others = size[~is_new].median().expand(int(is_new.sum()))
            torch.testing.assert_close(size[is_new], others, rtol=1e-3, atol=0)
            middle = found.mean(1)[is_new].abs()
            torch.testing.assert_close(middle / others, 0 * others, rtol=0, atol=1e-3)
            assert 0.3 < float((found[is_new] > 0).double().mean()) < 0.7
        spread = network.conv10[0](last).transpose(0, 1).flatten(1).std(1)
    assert float(spread.max() / spread.min()) < 2


@pytest.mark.parametrize(("count", "size"), [(1000, 128), (7, 3), (24, 16)])
def test_directions_are_spread_evenly(count, size):
    directions = spread_directions(count, size).double()
    assert directions.shape == (count, size)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(count).double())
    torch.testing.assert_close(directions[(count + 1) // 2 :], -directions[: count // 2])
    frame = directions.T @ directions / count * size
    if count >= 4 * size:
        torch.testing.assert_close(frame, torch.eye(size).double(), rtol=0, atol=0.5)


def test_codes_order_pairs_as_their_cosines_do():
    # Pairs from strangers to the same face.
    drawn = torch.randn(400, 128, generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0, 1, 200)[:, None]
    drawn[200:] = share * drawn[:200] + (1 - share) * drawn[200:]
    bank = torch.nn.functional.normalize(drawn)
    objective = DistillationObjective(bank, 1000, spread_weight=1.0)
    with torch.no_grad():
        code = torch.nn.functional.softplus(objective.code(bank))
    code = (code / code.sum(1, keepdim=True)).double().numpy()
    distances = [
        ((a - b) ** 2 / (a + b)).sum() for a, b in zip(code[:200], code[200:], strict=True)
    ]
    cosines = (bank[:200] * bank[200:]).sum(1).numpy()
    assert np.corrcoef(distances, cosines)[0, 1] < -0.99
    assert not any(each.requires_grad for each in objective.code.parameters())


def test_new_values_say_what_the_teacher_says():
    network = _network()
    with torch.no_grad():
        network.conv10[0].bias[: 1000 - 8] = -1e6
    images, targets = _faces(network, 600)
    learned, tested = (images[:400], targets[:400]), (images[400:], targets[400:])
    before = _cosine(network, learned, tested)
    spread_values(network, *learned)
    after = _cosine(network, learned, tested)
    assert after > before + 0.1


def test_depthwise_filters_are_left_and_other_networks_refused():
    network = _network("squeezefaceposenet+dwc")
    images, targets = _faces(network, 64)
    filters = network.fire9.expand3x3[0].weight.clone()
    spread_values(network, images, targets)
    assert torch.equal(network.fire9.expand3x3[0].weight, filters)
    for name, batch_norm in (
        ("squeezefaceposenet+places+map", False),
        ("squeezefaceposenet+gdc", False),
        ("squeezefaceposenet", True),
        ("lightcnn29", False),
    ):
        other = build_network(name, batch_norm=batch_norm)
        with pytest.raises(ValueError, match="must be a SqueezeFacePoseNet whose own values"):
            spread_values(other, images, targets)


def test_the_map_begins_with_what_least_squares_find():
    rng = np.random.default_rng(0)
    bank = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(3000, 16))).float())
    code = torch.from_numpy(rng.normal(size=(16, 60)) * 4).float()
    outputs = torch.nn.functional.softplus(bank @ code + 1) * torch.linspace(0.1, 10, 60)
    objective = DistillationObjective(bank, 60, spread_weight=1.0)
    objective.begin_with(outputs[:2000], torch.arange(2000))
    with torch.no_grad():
        found = objective.eval().to_teacher(outputs[2500:])
    features = hellinger_features(outputs / outputs.mean(0)).numpy()
    line = LinearRegression(fit_intercept=False).fit(features[:2000], bank[:2000].numpy())
    wanted = line.predict(features[2500:])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert float((found.numpy() * wanted).sum(1).min()) > 0.99
    assert float((found * bank[2500:]).sum(1).mean()) > 0.9


def test_a_run_spreads_values_keeps_them_and_goes_on(taught_faces, tmp_path):
    faces = taught_faces(128)
    manifest = read_artifact("plain").manifest
    silent = {**manifest, "input": {**manifest["input"], "size": 40}}
    start = write_artifact(tmp_path / "silent", to_onnx(_network(), 40), silent)
    loop = LoopSettings(stages=(Stage(40, 12, 6),), optimizer="muon", learning_rate=1e-3)
    recipe = DistillationRecipe(loop=loop, spread=True)
    first = tmp_path / "first.pt"
    artifact, _ = distil(faces, first, start=start, recipe=recipe, progress=False)
    assert artifact.manifest["descriptor"]["less_mean"] == 0.5
    network = network_from_artifact(artifact).eval()
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())
    images = torch.randn(64, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert int((network(images).amax(0) <= 0).sum()) < 50
    kept = load_checkpoint(first)["averaged"]
    assert "conv10.1.running_var" in kept
    # Finished already: resuming it gives the same file.
    assert (
        distil(faces, first, start=start, recipe=recipe, progress=False)[0].model == artifact.model
    )
    begun = start_network(first, "squeezefaceposenet")
    assert begun.new_layers == []
    for key, value in begun.network.state_dict().items():
        assert torch.equal(value, kept[key])
    mapped = replace(recipe, network="squeezefaceposenet+places+map")
    with pytest.raises(ValueError, match="must be a SqueezeFacePoseNet whose own values"):
        distil(faces, tmp_path / "mapped.pt", start=first, recipe=mapped, progress=False)
