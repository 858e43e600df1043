"""The variants of SqueezeFacePoseNet against torch's functions applied by hand."""

import pytest

torch = pytest.importorskip("torch", reason="networks need the [train] extra")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from sfpose.networks import NETWORKS, Fire, SqueezeFacePoseNet, build_network  # noqa: E402
from sfpose.networks.layers import interleave_channels  # noqa: E402

# What +deeper adds: 512 to 128, 128 to 256 (1x1) and 128 to 256 (3x3), with biases.
ADDED_MODULE = 512 * 128 + 128 + 128 * 256 * 10 + 2 * 256
# Table 1 and the arithmetic behind it.
COUNTS = {
    "squeezefaceposenet": 1_235_496,
    "squeezefaceposenet+gdc": 1_405_496,
    "squeezefaceposenet+dwc": 694_056,
    "squeezefaceposenet+dwc+gdc": 864_056,
    "squeezefaceposenet+residual": 1_235_496,
    "squeezefaceposenet+preactivation": 1_235_496,
    "squeezefaceposenet+deeper": 1_235_496 + 4 * ADDED_MODULE,
    "squeezefaceposenet+deeper+map": 2_810_920 + 128 * 1000,
    "squeezefaceposenet+deeper7": 1_235_496 + 7 * ADDED_MODULE,
    "squeezefaceposenet+deeper7+map": 3_992_488 + 128 * 1000,
    "squeezefaceposenet+places+map": 1_235_496 + 128 * 1000 + 513 * 64 + 64 * 7 * 7 * 128,
    # 256 values instead of 1000.
    "squeezefaceposenet+tight+places+map": 1_797_736 - 744 * (513 + 128),
    "squeezefaceposenet+deeper7+places+map": 4_120_488 + 513 * 64 + 64 * 7 * 7 * 128,
}
# Table 2: squeeze and expand widths of fire2 to fire9.
WIDTHS = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
FIRES = [f"fire{number}" for number in range(2, 10)]


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_variant_has_its_exact_number_of_parameters(name, count):
    network = build_network(name, batch_norm=False)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("name", COUNTS)
def test_fire_modules_have_the_widths_of_table_2(name):
    network = build_network(name)
    for fire, (squeeze, expand) in zip(FIRES, WIDTHS, strict=True):
        module = network.get_submodule(fire)
        assert module.squeeze[0].out_channels == squeeze
        assert module.expand1x1[0].out_channels == expand
        assert module.expand3x3[0].out_channels == expand
        assert module.expand3x3[0].in_channels == squeeze
        groups = squeeze if "+dwc" in name else 1
        assert module.expand3x3[0].groups == groups
        # Channel multiplier 4: four filters for each channel of the squeeze layer.
        assert module.expand3x3[0].out_channels == 4 * squeeze
        assert module.expand3x3[0].weight.shape == (expand, squeeze // groups, 3, 3)
    assert network.conv1[0].groups == network.conv10[0].groups == 1


def _by_hand(x, fire, groups, residual, preactivation):
    def layer(x, part, padding=0, groups=1):
        convolution = getattr(fire, part)[0]
        weight, bias = convolution.weight.double(), convolution.bias.double()
        x = x.relu() if preactivation else x
        x = F.conv2d(x, weight, bias, padding=padding, groups=groups)
        return x if preactivation else x.relu()

    narrow = layer(x, "squeeze")
    wide = torch.cat([layer(narrow, "expand1x1"), layer(narrow, "expand3x3", 1, groups)], 1)
    return x + wide if residual else wide


@given(
    other_width=st.none() | st.integers(1, 6),
    squeeze=st.integers(1, 4),
    multiplier=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    depthwise=st.booleans(),
    residual=st.booleans(),
    preactivation=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_a_fire_module_computes_what_its_functions_compute(
    other_width, squeeze, multiplier, height, width, depthwise, residual, preactivation, seed
):
    expand = squeeze * multiplier
    inputs = other_width or 2 * expand
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fire = Fire(
            inputs,
            squeeze,
            expand,
            depthwise=depthwise,
            residual=residual,
            preactivation=preactivation,
        )
        x = torch.randn(2, inputs, height, width)
    kept = x.clone()
    groups = squeeze if depthwise else 1
    expected = _by_hand(x.double(), fire, groups, residual and inputs == 2 * expand, preactivation)
    with torch.no_grad():
        got = fire(x)
    assert torch.equal(x, kept), "a module must not change its input"
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_modules_that_keep_the_width_are_bypassed_and_no_others():
    for name in ("squeezefaceposenet+residual", "squeezefaceposenet+preactivation"):
        network = build_network(name)
        bypassed = [fire for fire in FIRES if network.get_submodule(fire).residual]
        assert bypassed == ["fire3", "fire5", "fire7", "fire9"]


def test_global_depthwise_convolution_of_equal_weights_is_the_average():
    torch.manual_seed(0)
    plain = build_network("squeezefaceposenet").eval()
    network = build_network("squeezefaceposenet+gdc").eval()
    missing = network.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["gdc.0.weight", "gdc.0.bias"]
    with torch.no_grad():
        network.gdc[0].weight.fill_(1 / 169)
        network.gdc[0].bias.zero_()
        images = torch.randn(2, 3, 113, 113)
        torch.testing.assert_close(network(images), plain(images), rtol=1e-4, atol=1e-5)
    fresh = build_network("squeezefaceposenet+gdc")
    assert torch.equal(fresh.gdc[0].weight, network.gdc[0].weight)
    assert torch.equal(fresh.gdc[0].bias, network.gdc[0].bias)


def test_global_depthwise_convolution_weighs_each_place_and_channel_by_itself():
    torch.manual_seed(0)
    network = build_network("squeezefaceposenet+dwc+gdc", input_size=40).eval()
    assert network.gdc[0].kernel_size == (4, 4)
    maps = []
    network.conv10.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        network.gdc[0].weight.normal_()
        network.gdc[0].bias.normal_()
        got = network(torch.randn(2, 3, 40, 40))
        weights = network.gdc[0].weight[:, 0]
        expected = ((maps[0] * weights).sum((2, 3)) + network.gdc[0].bias).relu()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (got == 0).any()


def test_preactivation_alone_changes_nothing():
    torch.manual_seed(0)
    plain = SqueezeFacePoseNet().eval()
    moved = SqueezeFacePoseNet(preactivation=True).eval()
    moved.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        torch.testing.assert_close(moved(images), plain(images), rtol=1e-5, atol=1e-6)
        joined = SqueezeFacePoseNet(residual=True, preactivation=True).eval()
        joined.load_state_dict(plain.state_dict())
        assert not torch.allclose(joined(images), plain(images), rtol=1e-2)


def test_the_sums_of_preactivation_are_not_rectified():
    torch.manual_seed(0)
    seen = {}
    for name in ("squeezefaceposenet+residual", "squeezefaceposenet+preactivation"):
        network = build_network(name).eval()
        network.fire9.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.min().item()})
        )
        with torch.inference_mode():
            assert network(torch.randn(1, 3, 48, 48)).min() >= 0
    assert seen["squeezefaceposenet+residual"] >= 0
    assert seen["squeezefaceposenet+preactivation"] < 0


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("of", "name"), [("", "+deeper"), ("+deeper", "+deeper7")])
def test_a_deeper_network_begins_as_the_network_that_it_deepens(of, name, batch_norm):
    torch.manual_seed(0)
    plain = build_network(f"squeezefaceposenet{of}", batch_norm=batch_norm).eval()
    # Modules of its own must add something, or three more could not be told from them.
    for parameter in plain.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    deeper = build_network(f"squeezefaceposenet{name}", batch_norm=batch_norm).eval()
    left = deeper.load_state_dict(plain.state_dict(), strict=False)
    assert left.unexpected_keys == []
    assert {key.split(".")[0] for key in left.missing_keys} == {"deeper"}
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(deeper(images), plain(images))


@pytest.mark.parametrize(("name", "count"), [("+deeper", 4), ("+deeper7", 7)])
def test_added_modules_join_what_comes_before_them(name, count):
    torch.manual_seed(0)
    network = build_network(f"squeezefaceposenet{name}").eval()
    maps = {}
    network.fire9.register_forward_hook(lambda module, inputs, output: maps.update(before=output))
    network.conv10.register_forward_hook(lambda module, inputs, _: maps.update(after=inputs[0]))
    with torch.no_grad():
        for name, parameter in network.deeper.named_parameters():
            if "expand" in name:
                parameter.normal_(std=0.05)
        network(torch.randn(2, 3, 40, 40))
        expected = maps["before"].double()
        for number in range(count):
            module = network.deeper[number]
            expected = _by_hand(expected, module, 1, residual=True, preactivation=True)
    torch.testing.assert_close(maps["after"].double(), expected.relu(), rtol=1e-4, atol=1e-4)


def test_a_mapped_network_splits_the_signs_of_what_it_maps():
    torch.manual_seed(0)
    network = build_network("squeezefaceposenet+deeper+map").eval()
    plain = build_network("squeezefaceposenet+deeper").eval()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if k != "map.weight"})
    images = torch.randn(3, 3, 40, 40)
    with torch.inference_mode():
        got, values = network(images).double(), plain(images).double()
    shares = values / values.sum(1, keepdim=True)
    mapped = (shares + 1e-4).sqrt() @ network.map.weight.detach().double().T
    mapped /= mapped.norm(dim=1, keepdim=True)
    halves = [(1 + 4 * mapped).clamp(min=0), (1 - 4 * mapped).clamp(min=0)]
    assert got.shape == (3, NETWORKS["squeezefaceposenet+deeper+map"].descriptor_size)
    torch.testing.assert_close(got, torch.cat(halves, 1), rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        for parameter in (network.conv10[0].weight, network.conv10[0].bias):
            parameter.zero_()
        assert not network(images).any(), "where nothing fires, nothing is described"


def test_places_add_what_the_average_forgets():
    torch.manual_seed(0)
    network = build_network("squeezefaceposenet+deeper7+places+map", input_size=48).eval()
    averaged = build_network("squeezefaceposenet+deeper7+map").eval()
    state = network.state_dict()
    averaged.load_state_dict({k: v for k, v in state.items() if not k.startswith("place")})
    images = torch.randn(3, 3, 48, 48)
    seen = {}
    network.conv10.register_forward_hook(lambda _, inputs, output: seen.update(at=inputs[0]))
    network.conv10.register_forward_hook(lambda _, inputs, output: seen.update(values=output))
    with torch.inference_mode():
        # It starts by adding nothing.
        torch.testing.assert_close(network(images), averaged(images))
        network.placed.weight.normal_(std=0.01)
        got = network(images).double()
    convolution, norm = network.places[0], network.places[1]
    norm_scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    maps = torch.einsum(
        "nchw,dc->ndhw", seen["at"].double(), convolution.weight[..., 0, 0].double()
    )
    maps = maps - norm.running_mean[:, None, None]
    maps = (maps * norm_scale[:, None, None].double() + norm.bias[:, None, None]).clamp(min=0)
    values = seen["values"].double().mean((2, 3))
    shares = values / values.sum(1, keepdim=True)
    mapped = (shares + 1e-4).sqrt() @ network.map.weight.double().T
    mapped = mapped + torch.einsum("ndhw,edhw->ne", maps, network.placed.weight.double())
    mapped = (mapped / mapped.norm(dim=1, keepdim=True)).detach()
    halves = [(1 + 4 * mapped).clamp(min=0), (1 - 4 * mapped).clamp(min=0)]
    torch.testing.assert_close(got, torch.cat(halves, 1), rtol=1e-4, atol=1e-4)


def test_places_need_a_map_and_images_of_one_size():
    with pytest.raises(ValueError, match="places add to the values of a map; give mapped=True"):
        SqueezeFacePoseNet(places=64)
    with pytest.raises(ValueError, match="a tight part is for images of one size; give places"):
        SqueezeFacePoseNet(tight=True)
    network = build_network("squeezefaceposenet+deeper7+places+map")
    with pytest.raises(ValueError, match=r"shape \(n, 3, 64, 64\).*got \(1, 3, 48, 48\)"):
        network(torch.zeros(1, 3, 48, 48))
    for name, size in (("+gdc", 14), ("+deeper7+places+map", 14)):
        with pytest.raises(ValueError, match="input_size must be at least 15; got 14"):
            build_network("squeezefaceposenet" + name, input_size=size)


def test_a_tight_network_sees_five_sixths():
    torch.manual_seed(0)
    tight = build_network("squeezefaceposenet+tight+places+map").eval()
    torch.nn.init.normal_(tight.placed.weight, std=0.01)
    whole = SqueezeFacePoseNet(input_size=64, values=256, mapped=True, places=64).eval()
    whole.load_state_dict(tight.state_dict())
    images = torch.randn(2, 3, 76, 76)
    with torch.inference_mode():
        # 76 rows and columns: 12 above and 6 on each side are left out.
        torch.testing.assert_close(tight(images), whole(images[:, :, 12:, 6:70]))
    with pytest.raises(ValueError, match=r"shape \(n, 3, 76, 76\).*got \(1, 3, 64, 64\)"):
        tight(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("name", COUNTS)
def test_every_parameter_of_a_variant_learns(name):
    torch.manual_seed(0)
    network = build_network(name, batch_norm=True, dropout=0.5, input_size=32).train()
    for key, parameter in network.named_parameters():
        begins = (key.startswith("deeper") and parameter.ndim == 1) or key == "placed.weight"
        if begins and not parameter.any():
            # Modules that add nothing yet pass nothing back to what is below them.
            torch.nn.init.ones_(parameter)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_images_of_another_size_are_refused_where_the_size_is_fixed():
    network = build_network("squeezefaceposenet+gdc")
    for shape in ((1, 3, 112, 112), (1, 3, 113, 114), (1, 1, 113, 113)):
        with pytest.raises(ValueError, match=r"images must have shape \(n, 3, 113, 113\).*got"):
            network(torch.zeros(shape))
    with pytest.raises(ValueError, match="input_size must be at least 15; got 14"):
        build_network("squeezefaceposenet+gdc", input_size=14)


@given(
    groups=st.integers(1, 4), each=st.integers(1, 5), height=st.integers(1, 3), n=st.integers(1, 3)
)
@settings(max_examples=40, deadline=None)
def test_shuffle_interleaves_channels(groups, each, height, n):
    x = torch.arange(n * groups * each * height * 2).reshape(n, groups * each, height, 2)
    order = [part * each + place for place in range(each) for part in range(groups)]
    parts = [x[:, part * each : (part + 1) * each] for part in range(groups)]
    assert torch.equal(interleave_channels(parts), x[:, order])
    # The permutation that torch calls channel shuffle.
    assert torch.equal(nn.ChannelShuffle(groups)(x.float()), x[:, order].float())
