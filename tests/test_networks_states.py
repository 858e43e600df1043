"""Published states: what they fill, what they leave, and what is refused."""

import pickle

import pytest

torch = pytest.importorskip("torch", reason="networks need the [train] extra")

import torch.nn.functional as F  # noqa: E402

from sfpose.networks import NETWORKS, build_network  # noqa: E402
from sfpose.networks.imagenet import (  # noqa: E402
    fill_from_resnet,
    fill_from_squeezenet,
    fill_from_state,
    read_state,
)

# SqueezeNet v1.1: place in torchvision's features, inputs, squeeze, expand.
FIRES = [(3, 64, 16, 64), (4, 128, 16, 64), (6, 128, 32, 128), (7, 256, 32, 128)]
FIRES += [(9, 256, 48, 192), (10, 384, 48, 192), (11, 384, 64, 256), (12, 512, 64, 256)]


@pytest.fixture(scope="module")
def squeezenet():
    """A SqueezeNet v1.1 state under torchvision's names, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def layer(name, outputs, inputs, kernel):
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator)

    layer("features.0", 64, 3, 3)
    for place, inputs, squeeze, expand in FIRES:
        layer(f"features.{place}.squeeze", squeeze, inputs, 1)
        layer(f"features.{place}.expand1x1", expand, squeeze, 1)
        layer(f"features.{place}.expand3x3", expand, squeeze, 3)
    layer("classifier.1", 1000, 512, 1)
    return state


def test_imagenet_state_fills_every_layer_with_its_own_tensor(squeezenet):
    network = build_network("squeezefaceposenet")
    filled, left = fill_from_squeezenet(network, squeezenet)
    assert len(filled) == 52
    assert left == []
    ours = network.state_dict()
    assert torch.equal(ours["conv1.0.weight"], squeezenet["features.0.weight"])
    assert torch.equal(ours["fire4.expand3x3.0.bias"], squeezenet["features.6.expand3x3.bias"])
    assert torch.equal(ours["fire9.squeeze.0.weight"], squeezenet["features.12.squeeze.weight"])
    assert torch.equal(ours["conv10.0.weight"], squeezenet["classifier.1.weight"])


@pytest.mark.parametrize(
    ("name", "left_layers"),
    [
        ("squeezefaceposenet+gdc", {"gdc"}),
        ("squeezefaceposenet+dwc", {f"fire{n}.expand3x3" for n in range(2, 10)}),
        (
            "squeezefaceposenet+dwc+gdc",
            {"gdc", *(f"fire{n}.expand3x3" for n in range(2, 10))},
        ),
        ("squeezefaceposenet+residual", set()),
        ("squeezefaceposenet+preactivation", set()),
        (
            "squeezefaceposenet+deeper",
            {
                f"deeper.{n}.{layer}"
                for n in range(4)
                for layer in ("squeeze", "expand1x1", "expand3x3")
            },
        ),
    ],
)
def test_a_variant_takes_the_layers_that_it_shares_and_names_the_others(
    name, left_layers, squeezenet
):
    network = build_network(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    filled, left = fill_from_state(network, squeezenet)
    assert set(left) == {
        f"{layer}.0.{kind}" for layer in left_layers for kind in ("weight", "bias")
    }
    assert sorted(filled + left) == sorted(before)
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in left)
    assert torch.equal(after["fire5.squeeze.0.weight"], squeezenet["features.7.squeeze.weight"])


SINGLE_LOOKS = [n for n in NETWORKS if n.startswith("squeezefaceposenet") and "+centre" not in n]


@pytest.mark.parametrize("name", SINGLE_LOOKS)
def test_every_network_of_a_single_look_takes_what_it_shares_with_squeezenet(name, squeezenet):
    network = build_network(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    filled, left = fill_from_state(network, squeezenet)
    parameters = {key for key, _ in network.named_parameters()}
    assert sorted(filled + left) == sorted(parameters)
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before.keys() - set(filled))
    assert torch.equal(after["conv1.0.weight"], squeezenet["features.0.weight"])
    assert torch.equal(after["fire9.squeeze.0.bias"], squeezenet["features.12.squeeze.bias"])
    own = {"conv10"} if "+tight" in name else set()
    for suffix, layers in {
        "+map": {"map"},
        "+places": {"places", "placed"},
        "+deeper": {"deeper"},
        "+gdc": {"gdc"},
        "+dwc": {f"fire{n}" for n in range(2, 10)},
    }.items():
        own |= layers if suffix in name else set()
    assert {key.split(".")[0] for key in left} == own


@pytest.mark.parametrize("name", [n for n in NETWORKS if "+centre" in n])
def test_several_looks_say_that_they_start_from_one_look(name):
    with pytest.raises(ValueError, match=r"the weights of a SqueezeFacePoseNet, such as .*small"):
        fill_from_state(build_network(name), {})


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in NETWORKS
        if not n.startswith("squeezefaceposenet") and n not in ("resnet50", "senet50")
    ],
)
def test_networks_without_a_published_state_say_so(name):
    with pytest.raises(ValueError, match="only SqueezeFacePoseNet, ResNet50 and SENet50 start"):
        fill_from_state(build_network(name), {})


def test_batch_norm_is_left_by_a_state_that_has_none(squeezenet):
    network = build_network("squeezefaceposenet", batch_norm=True)
    filled, left = fill_from_squeezenet(network, squeezenet)
    assert len(filled) == 26
    assert len(left) == 52
    assert all(name.split(".")[-2] == "1" for name in left)


def test_a_squeezenet_that_does_not_fit_is_refused_whole(squeezenet):
    network = build_network("squeezefaceposenet")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    wide = {**squeezenet, "classifier.1.weight": torch.zeros(10, 512, 1, 1)}
    with pytest.raises(
        ValueError, match=r"classifier\.1\.weight must have shape \(1000, 512, 1, 1\); got \(10,"
    ):
        fill_from_squeezenet(network, wide)
    partial = {k: v for k, v in squeezenet.items() if k != "features.7.squeeze.bias"}
    with pytest.raises(ValueError, match=r"no 'features\.7\.squeeze\.bias'"):
        fill_from_squeezenet(network, partial)
    with pytest.raises(ValueError, match=r"must be a SqueezeNet v1\.1"):
        fill_from_squeezenet(network, {"conv.weight": torch.zeros(1)})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_imagenet_file_is_read(shared_data):
    path = shared_data.parent / "models" / "squeezenet1_1_imagenet.safetensors"
    if not path.exists():
        pytest.skip("no ImageNet state beside the development data")
    network = build_network("squeezefaceposenet")
    filled, left = fill_from_squeezenet(network, read_state(path))
    assert (len(filled), len(left)) == (52, 0)


def _resnet_state(attention):
    """A state with the names of torchvision and of the converted VGGFace2 weights."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def layer(name, norm, outputs, inputs, kernel):
        scale = (2 / (inputs * kernel**2)) ** 0.5
        shape = (outputs, inputs, kernel, kernel)
        state[f"{name}.weight"] = scale * torch.randn(shape, generator=generator)
        if norm is None:
            state[f"{name}.bias"] = torch.randn(outputs, generator=generator)
            return
        state[f"{norm}.weight"] = torch.rand(outputs, generator=generator) + 0.2
        state[f"{norm}.bias"] = 0.2 * torch.randn(outputs, generator=generator)
        state[f"{norm}.running_mean"] = 0.2 * torch.randn(outputs, generator=generator)
        state[f"{norm}.running_var"] = torch.rand(outputs, generator=generator) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    layer("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, (inner, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
        for block in range(blocks):
            home = f"layer{stage}.{block}"
            layer(f"{home}.conv1", f"{home}.bn1", inner, inputs, 1)
            layer(f"{home}.conv2", f"{home}.bn2", inner, inner, 3)
            layer(f"{home}.conv3", f"{home}.bn3", 4 * inner, inner, 1)
            if attention:
                layer(f"{home}.conv4", None, inner // 4, 4 * inner, 1)
                layer(f"{home}.conv5", None, 4 * inner, inner // 4, 1)
            if block == 0:
                layer(f"{home}.downsample.0", f"{home}.downsample.1", 4 * inner, inputs, 1)
            inputs = 4 * inner
    state["fc.weight"] = torch.zeros(8631, 2048)
    state["fc.bias"] = torch.zeros(8631)
    return state


def _resnet_by_hand(state, images, attention):
    """The network of the VGGFace2 authors, layer by layer from its state, in float64."""
    state = {key: value.double() for key, value in state.items()}

    def norm(x, name):
        entries = (state[f"{name}.{key}"] for key in ("running_mean", "running_var"))
        return F.batch_norm(x, *entries, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.conv2d(images.double(), state["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(norm(x, "bn1")), 3, 2, ceil_mode=True)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            home = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.relu(
                norm(F.conv2d(x, state[f"{home}.conv1.weight"], stride=stride), f"{home}.bn1")
            )
            y = F.relu(norm(F.conv2d(y, state[f"{home}.conv2.weight"], padding=1), f"{home}.bn2"))
            y = norm(F.conv2d(y, state[f"{home}.conv3.weight"]), f"{home}.bn3")
            if attention:
                s = F.adaptive_avg_pool2d(y, 1)
                s = F.conv2d(s, state[f"{home}.conv4.weight"], state[f"{home}.conv4.bias"])
                s = F.conv2d(F.relu(s), state[f"{home}.conv5.weight"], state[f"{home}.conv5.bias"])
                y = y * torch.sigmoid(s)
            if block == 0:
                x = F.conv2d(x, state[f"{home}.downsample.0.weight"], stride=stride)
                x = norm(x, f"{home}.downsample.1")
            x = F.relu(x + y)
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


@pytest.mark.parametrize("name", ["resnet50", "senet50"])
def test_a_vggface2_state_answers_as_its_own_network(name):
    attention = name == "senet50"
    state = _resnet_state(attention)
    network = build_network(name).eval()
    filled, left = fill_from_resnet(network, state, bgr=True)
    assert len(filled) == len(state) - 2 - sum("num_batches" in key for key in state)
    assert left == []
    rgb = torch.randn(2, 3, 35, 35, generator=torch.Generator().manual_seed(1))
    expected = _resnet_by_hand(state, rgb.flip(1), attention)
    with torch.inference_mode():
        got = network(rgb).double()
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_a_resnet_that_does_not_fit_is_refused_whole():
    state = _resnet_state(attention=False)
    network = build_network("resnet50")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"layer2\.0\.conv3\.weight must have shape \(512, 128"):
        fill_from_state(network, {**state, "layer2.0.conv3.weight": torch.zeros(512, 64, 1, 1)})
    with pytest.raises(ValueError, match=r"no 'layer1\.0\.conv4\.weight'"):
        fill_from_state(build_network("senet50"), state)
    with pytest.raises(ValueError, match="batch_norm=True"):
        fill_from_state(build_network("resnet50", batch_norm=False), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(ValueError, match="got MobileFaceNet"):
        fill_from_state(build_network("mobilefacenet"), state)


def test_files_that_could_run_code_or_hold_something_else_are_refused(tmp_path):
    class Danger:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name in ("state.pkl", "state.pth"):
        (tmp_path / name).write_bytes(pickle.dumps({"conv1.weight": Danger()}, protocol=2))
        with pytest.raises(ValueError, match=r"a pickle can run any code|weights_only=True"):
            read_state(tmp_path / name)
    torch.save({"conv1.weight": Danger()}, tmp_path / "zip.pth")
    with pytest.raises(ValueError, match="weights_only=True"):
        read_state(tmp_path / "zip.pth")
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="dictionary of tensors"):
        read_state(tmp_path / "list.pth")
    (tmp_path / "text.safetensors").write_text("no tensors here, only words")
    with pytest.raises(ValueError, match="must be a safetensors file"):
        read_state(tmp_path / "text.safetensors")
    with pytest.raises(FileNotFoundError, match="there is none"):
        read_state(tmp_path / "absent.pth")


def test_both_kinds_of_file_hold_the_same_state(tmp_path, squeezenet):
    from safetensors.torch import save_file

    torch.save(squeezenet, tmp_path / "state.pth")
    save_file(squeezenet, tmp_path / "state.safetensors")
    for name in ("state.pth", "state.safetensors"):
        read = read_state(tmp_path / name)
        assert read.keys() == squeezenet.keys()
        assert all(torch.equal(read[key], squeezenet[key]) for key in read)
