"""Two networks under one map against each network by itself."""

import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.networks import build_network  # noqa: E402
from sfpose.networks.two_looks import for_both_looks  # noqa: E402
from sfpose.training.export import fold_batch_norm, to_onnx  # noqa: E402
from sfpose.training.starts import start_network  # noqa: E402

NAME = "squeezefaceposenet+centre+places+map"


def _network(size=40):
    torch.manual_seed(0)
    network = build_network(NAME, batch_norm=False, input_size=size).eval()
    torch.nn.init.normal_(network.placed.weight, std=0.01)
    return network


@torch.inference_mode()
def test_one_look_is_of_the_whole_and_one_of_the_centre():
    network, images = _network(), torch.rand(3, 3, 40, 40)
    seen = {}
    for part in ("whole", "centre"):
        look = network.get_submodule(part)
        look.conv1.register_forward_hook(
            lambda _, given, __, part=part: seen.update({part: given[0]})
        )
    got = network(images).double()
    assert torch.equal(seen["centre"], images[:, :, 4:36, 4:36])
    smaller = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear")
    torch.testing.assert_close(seen["whole"], smaller, rtol=1e-4, atol=1e-5)
    # Each look by itself gives the values and maps of its part; the map takes all of them.
    outputs = [network.get_submodule(part)(seen[part]).double() for part in ("whole", "centre")]
    values = torch.cat([each[:, :1000] for each in outputs], 1)
    maps = torch.cat([each[:, 1000:] for each in outputs], 1)
    shares = values / values.sum(1, keepdim=True)
    mapped = (shares + 1e-4).sqrt() @ network.map.weight.double().T
    mapped = mapped + maps @ network.placed.weight.double().flatten(1).T
    mapped = 4 * mapped / mapped.norm(dim=1, keepdim=True)
    expected = torch.cat([1 + mapped, 1 - mapped], 1).clamp(min=0)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_what_the_map_was_taken_off_gives_all_that_goes_into_it():
    network = _network()
    network.take_map_off()
    assert network(torch.rand(2, 3, 40, 40)).shape == (2, 2000 + 128 * network.place_count)
    assert [len(layer[0].weight) for layer in network.value_layers] == [1000, 1000]
    assert [len(layer[0].weight) for layer in network.place_layers] == [64, 64]


@torch.inference_mode()
def test_both_looks_begin_with_the_weights_of_one_network():
    begun = start_network("small", NAME, input_size=80)
    assert begun.new_layers == []
    one = start_network("small").network.state_dict()
    two = begun.network.state_dict()
    for key, value in one.items():
        if not key.startswith(("map", "placed")):
            assert torch.equal(two[f"whole.{key}"], value)
            assert torch.equal(two[f"centre.{key}"], value)
    assert torch.equal(two["map.weight"], torch.cat([one["map.weight"]] * 2, 1))
    # An image whose centre looks as the whole does is described as by the one network.
    flat = torch.full((1, 3, 80, 80), 0.3)
    expected = start_network("small").network.eval()(flat[:, :, :64, :64])
    # Nearly: shares in the sum of two looks are half as large beside the constant in the root.
    mapped = [d[:, :128] - d[:, 128:] for d in (begun.network.eval()(flat), expected)]
    assert float(torch.cosine_similarity(*mapped)) > 0.95


def test_the_objective_of_one_look_is_doubled():
    state = {
        "mean": torch.arange(3.0),
        "linear.weight": torch.ones(2, 3),
        "conv1.0.bias": torch.ones(1),
    }
    both = for_both_looks(state)
    assert sorted(both) == ["centre.conv1.0.bias", "linear.weight", "mean", "whole.conv1.0.bias"]
    assert both["mean"].tolist() == [0, 1, 2, 0, 1, 2]
    assert both["linear.weight"].shape == (2, 6)


def test_sides_that_cannot_be_cut_evenly_are_refused():
    for size in (10, 64, 85):
        with pytest.raises(ValueError, match=f"must be a multiple of 10 from 20 on; got {size}"):
            build_network(NAME, input_size=size)
    with pytest.raises(ValueError, match=r"shape \(n, 3, 100, 100\).*got \(1, 3, 64, 64\)"):
        build_network(NAME)(torch.zeros(1, 3, 64, 64))


def test_every_parameter_of_both_looks_learns_and_is_exported():
    torch.manual_seed(0)
    network = build_network(NAME, input_size=40).train()
    torch.nn.init.normal_(network.placed.weight, std=0.01)
    network(torch.randn(4, 3, 40, 40)).square().sum().backward()
    assert [
        key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()
    ] == []
    folded = fold_batch_norm(network)
    # Raises unless onnxruntime answers as torch does.
    stored = len(to_onnx(folded, 40))
    assert stored > 4 * sum(parameter.numel() for parameter in folded.parameters())
