"""The networks against Table 2 of the paper and against an independent SqueezeNet."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need the [train] extra")

from torch import nn  # noqa: E402

from sfpose.networks import NETWORKS, FaceLandmarkNet, build_network  # noqa: E402
from sfpose.networks.imagenet import fill_from_squeezenet, read_state  # noqa: E402

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


def test_plain_network_has_the_papers_parameters():
    network = build_network("squeezefaceposenet")
    assert sum(p.numel() for p in network.parameters()) == 1_235_496


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


def _squeezenet_state():
    """A SqueezeNet v1.1 state under torchvision's names, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def layer(name, outputs, inputs, kernel):
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator)

    layer("features.0", 64, 3, 3)
    fires = [(3, 64, 16, 64), (4, 128, 16, 64), (6, 128, 32, 128), (7, 256, 32, 128)]
    fires += [(9, 256, 48, 192), (10, 384, 48, 192), (11, 384, 64, 256), (12, 512, 64, 256)]
    for place, inputs, squeeze, expand in fires:
        layer(f"features.{place}.squeeze", squeeze, inputs, 1)
        layer(f"features.{place}.expand1x1", expand, squeeze, 1)
        layer(f"features.{place}.expand3x3", expand, squeeze, 3)
    layer("classifier.1", 1000, 512, 1)
    return state


def test_imagenet_state_fills_every_layer_with_its_own_tensor():
    state = _squeezenet_state()
    network = build_network("squeezefaceposenet")
    filled, left = fill_from_squeezenet(network, state)
    assert len(filled) == 52
    assert left == []
    ours = network.state_dict()
    assert torch.equal(ours["conv1.0.weight"], state["features.0.weight"])
    assert torch.equal(ours["fire4.expand3x3.0.bias"], state["features.6.expand3x3.bias"])
    assert torch.equal(ours["fire9.squeeze.0.weight"], state["features.12.squeeze.weight"])
    assert torch.equal(ours["conv10.0.weight"], state["classifier.1.weight"])


def test_imagenet_state_that_does_not_fit_is_refused():
    state = _squeezenet_state()
    state["features.0.weight"] = torch.zeros(96, 3, 7, 7)
    with pytest.raises(ValueError, match=r"features\.0\.weight must have shape \(64, 3, 3, 3\)"):
        fill_from_squeezenet(build_network("squeezefaceposenet"), state)
    with pytest.raises(ValueError, match="no layer matched"):
        fill_from_squeezenet(build_network("squeezefaceposenet"), {"conv.weight": torch.zeros(1)})


def test_imagenet_file_is_read(shared_data):
    path = shared_data.parent / "models" / "squeezenet1_1_imagenet.safetensors"
    if not path.exists():
        pytest.skip("no ImageNet state beside the development data")
    network = build_network("squeezefaceposenet")
    filled, left = fill_from_squeezenet(network, read_state(path))
    assert (len(filled), len(left)) == (52, 0)


def test_state_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="dictionary of tensors"):
        read_state(tmp_path / "list.pth")


def test_landmark_network_stays_small_and_inside_its_grid():
    network = FaceLandmarkNet().eval()
    assert sum(p.numel() for p in network.parameters()) * 4 < 500_000
    with torch.inference_mode():
        output = network(torch.randn(3, 3, 64, 64)).numpy()
    assert output.shape == (3, 11)
    assert np.all((output[:, :10] > -0.1) & (output[:, :10] < 1.1))
