"""Networks under one map against each network by itself."""

import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from torch.nn import functional  # noqa: E402

from sfpose.networks import build_network  # noqa: E402
from sfpose.training.export import fold_batch_norm, to_onnx  # noqa: E402

TWO = "squeezefaceposenet+centre+places+map"
THREE = "squeezefaceposenet+centre+coarse+places+map"
BOTH = pytest.mark.parametrize("name", [TWO, THREE])


def _network(name, size=50):
    torch.manual_seed(0)
    network = build_network(name, batch_norm=False, input_size=size).eval()
    torch.nn.init.normal_(network.placed.weight, std=0.01)
    return network


def _means_of_neighbours(maps, side):
    span = maps.shape[-1] - side + 1
    rows = [maps[:, :, top : top + span].mean(2) for top in range(side)]
    columns = [torch.stack(rows, 2)[..., left : left + span].mean(3) for left in range(side)]
    return torch.stack(columns, 3)


@BOTH
@torch.inference_mode()
def test_each_look_is_of_its_part_and_its_grain(name):
    network, images = _network(name), torch.rand(3, 3, 50, 50)
    seen = {}
    for part, look in network.looks.items():
        look.conv1.register_forward_hook(
            lambda _, given, __, part=part: seen.update({part: given[0]})
        )
    got = network(images).double()
    assert list(seen) == ["whole", "centre", "coarse"][: len(seen)]
    assert len(seen) == 2 + (name == THREE)
    assert torch.equal(seen["centre"], images[:, :, 5:45, 5:45])
    for part, side in (("whole", 40), ("coarse", 32)):
        if part in seen:
            smaller = functional.interpolate(images, size=(side, side), mode="bilinear")
            torch.testing.assert_close(seen[part], smaller, rtol=1e-4, atol=1e-5)
    # Each look by itself gives the values and maps of its part; the map takes all of them.
    outputs = [look(seen[part]).double() for part, look in network.looks.items()]
    count = len(network.value_layers[0][0].weight)
    values = torch.cat([each[:, :count] for each in outputs], 1)
    maps = [each[:, count:].unflatten(1, (64, -1)) for each in outputs]
    maps = [each.unflatten(2, (round(each.shape[2] ** 0.5),) * 2) for each in maps]
    side = min(each.shape[-1] for each in maps)
    assert side == (3 if name == THREE else 4)
    maps = torch.cat([_means_of_neighbours(each, side) for each in maps], 1)
    shares = values / values.sum(1, keepdim=True)
    mapped = (shares + 1e-4).sqrt() @ network.map.weight.double().T
    mapped = mapped + maps.flatten(1) @ network.placed.weight.double().flatten(1).T
    mapped = 4 * mapped / mapped.norm(dim=1, keepdim=True)
    expected = torch.cat([1 + mapped, 1 - mapped], 1).clamp(min=0)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "values", "maps"), [(TWO, 2000, 128), (THREE, 768, 192)])
@torch.inference_mode()
def test_what_the_map_was_taken_off_gives_all_that_goes_into_it(name, values, maps):
    network = _network(name)
    network.take_map_off()
    assert network(torch.rand(2, 3, 50, 50)).shape == (2, values + maps * network.place_count)
    assert sum(len(layer[0].weight) for layer in network.value_layers) == values
    assert sum(len(layer[0].weight) for layer in network.place_layers) == maps


@BOTH
def test_sides_that_cannot_be_cut_evenly_are_refused(name):
    least = 20 if name == TWO else 30
    for size in (0, least - 10, 64, 85):
        with pytest.raises(ValueError, match=f"multiple of 10 from {least} on|at least 1; got 0"):
            build_network(name, input_size=size)
    network = build_network(name, input_size=least).eval()
    assert network(torch.zeros(1, 3, least, least)).shape == (1, 256)
    with pytest.raises(ValueError, match=r"shape \(n, 3, 100, 100\).*got \(1, 3, 64, 64\)"):
        build_network(name)(torch.zeros(1, 3, 64, 64))


@BOTH
def test_every_parameter_of_all_looks_learns_and_is_exported(name):
    torch.manual_seed(0)
    network = build_network(name, input_size=50).train()
    torch.nn.init.normal_(network.placed.weight, std=0.01)
    network(torch.randn(4, 3, 50, 50)).square().sum().backward()
    assert [
        key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()
    ] == []
    folded = fold_batch_norm(network)
    # Raises unless onnxruntime answers as torch does.
    stored = len(to_onnx(folded, 50))
    assert stored > 4 * sum(parameter.numel() for parameter in folded.parameters())
