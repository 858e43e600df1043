"""Networks that ship can be trained on: a small step changes little."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from sfpose import FaceEmbedder  # noqa: E402
from sfpose.networks import build_network  # noqa: E402
from sfpose.runtime.artifact import read_artifact  # noqa: E402
from sfpose.training.balancing import balance  # noqa: E402
from sfpose.training.export import fold_batch_norm, network_from_artifact  # noqa: E402

VARIANTS = [
    "squeezefaceposenet",
    "squeezefaceposenet+gdc",
    "squeezefaceposenet+dwc",
    "squeezefaceposenet+residual",
    "squeezefaceposenet+preactivation",
    "squeezefaceposenet+deeper",
    "squeezefaceposenet+centre+coarse+places+map",
]


def _images(size, count=3):
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(1))


def _convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", VARIANTS)
def test_scales_that_fell_apart_are_taken_from_layer_to_layer(name):
    torch.manual_seed(0)
    network = fold_batch_norm(build_network(name, input_size=60)).eval()
    with torch.no_grad():
        for number, convolution in enumerate(_convolutions(network)):
            if convolution.bias is not None:
                convolution.bias.normal_(0, 0.1)
            if not convolution.weight.any():
                convolution.weight.normal_(0, 0.01)
            convolution.weight *= 10.0 ** (number % 5 - 2)
    before = network(_images(60)).detach()
    balance(network, 60)
    after = network(_images(60)).detach()
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * float(before.max()))


@pytest.mark.parametrize("weights", ["default", "small", "plain", "plain-int8"])
def test_what_ships_says_the_same_and_no_filters_are_tiny(weights):
    artifact = read_artifact(weights)
    size = artifact.network_input.size
    network = network_from_artifact(artifact).eval()
    before = network(_images(size)).detach()
    balance(network, size)
    torch.testing.assert_close(
        network(_images(size)).detach(), before, rtol=1e-3, atol=1e-4 * float(before.max())
    )
    filters = [each.weight.detach().flatten(1) for each in _convolutions(network)]
    lengths = [float(each.norm(dim=1).median()) for each in filters]
    assert min(lengths) > 0.03
    assert max(lengths) < 100


def test_normalised_networks_and_others_stay_as_they_are():
    # The last of them has batch normalisation behind its places alone.
    names = "squeezefaceposenet", "squeezefaceposenet+places+map"
    normalised = build_network(names[0], batch_norm=True), build_network(names[1])
    for network in (*normalised, nn.Linear(2, 2)):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        balance(network, 64)
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("weights", ["default", "small", "plain"])
def test_a_fit_at_a_small_rate_leaves_other_faces_nearly_as_they_were(weights, portrait):
    looks = [np.roll(portrait, shift, axis=1) for shift in (-6, -3, 0, 3, 6)]
    settings = {"align": False, "epochs": 2, "batch_size": 5, "learning_rate": 1e-5}
    embedder = FaceEmbedder(weights, **settings).fit(
        [*looks, *(look[::-1] for look in looks)], ["up"] * 5 + ["down"] * 5
    )
    others = [portrait[:, ::-1], portrait[10:, :150]]
    expected = FaceEmbedder(weights, align=False).transform(others)
    moved = np.abs(embedder.transform(others) - expected).sum(axis=1)
    apart = np.abs(expected[0] - expected[1]).sum()
    assert moved.max() < 0.5 * apart
