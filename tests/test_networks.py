"""The networks against Table 2 of the paper and against an independent SqueezeNet."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need the [train] extra")

from torch import nn  # noqa: E402

from sfpose.networks import NETWORKS, FaceLandmarkNet, build_network  # noqa: E402

# Table 2, "output": height and width, channels.
TABLE_2 = {
    "conv1": (113, 64),
    "maxpool1": (56, 64),
    "fire2": (56, 128),
    "fire3": (56, 128),
    "fire4": (56, 256),
    "maxpool4": (27, 256),
    "fire5": (27, 256),
    "fire6": (27, 384),
    "fire7": (27, 384),
    "fire8": (27, 512),
    "maxpool8": (13, 512),
    "fire9": (13, 512),
    "conv10": (13, 1000),
}


def test_every_layer_has_the_output_of_table_2():
    network = build_network("squeezefaceposenet").eval()
    seen = {}
    for name in TABLE_2:
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: tuple(output.shape)})
        )
    with torch.inference_mode():
        descriptor = network(torch.randn(1, 3, 113, 113))
    assert seen == {name: (1, width, side, side) for name, (side, width) in TABLE_2.items()}
    assert descriptor.shape == (1, 1000)
    assert (descriptor >= 0).all()


@pytest.mark.parametrize("size", [31, 40, 64, 113, 160])
def test_any_image_size_gives_a_descriptor(size):
    network = build_network("squeezefaceposenet").eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 3, size, size)).shape == (2, 1000)


def test_batch_norm_follows_every_convolution_and_no_other_layer():
    network = build_network("squeezefaceposenet", batch_norm=True)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [c.out_channels for c in convolutions] == [n.num_features for n in norms]
    assert all(c.bias is None for c in convolutions)


def test_unknown_network_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"squeezefaceposenet.*got 'squeezenet'"):
        build_network("squeezenet")
    assert "squeezefaceposenet" in NETWORKS


def test_landmark_network_stays_small_and_inside_its_grid():
    network = FaceLandmarkNet().eval()
    assert sum(p.numel() for p in network.parameters()) * 4 < 500_000
    with torch.inference_mode():
        output = network(torch.randn(3, 3, 64, 64)).numpy()
    assert output.shape == (3, 11)
    assert np.all((output[:, :10] > -0.1) & (output[:, :10] < 1.1))
