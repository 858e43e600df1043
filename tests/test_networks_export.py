"""Every network as ONNX: the answers of torch, the descriptor that the registry states."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need the [train] extra")
pytest.importorskip("onnx", reason="export needs the [train] extra")

from torch import nn  # noqa: E402

from sfpose.networks import NETWORKS, build_network  # noqa: E402
from sfpose.runtime.artifact import Artifact  # noqa: E402
from sfpose.runtime.session import OnnxModel  # noqa: E402
from sfpose.training.export import (  # noqa: E402
    fold_batch_norm,
    network_from_artifact,
    scale_descriptor,
    to_manifest,
    to_onnx,
)

SIZE = 80  # a multiple of 10 and of 16, which two of them ask for
IMAGES = np.random.default_rng(0).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small layers on many threads cost more than they bring, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _as_if_trained(network):
    """Biases and statistics of batch normalisation that are not those of a new network."""
    generator = torch.Generator().manual_seed(1)

    def near(value, spread, shape):
        return value + spread * (2 * torch.rand(shape, generator=generator) - 1)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, value in (
                    (module.weight, 1.0),
                    (module.running_var, 1.0),
                    (module.bias, 0.0),
                    (module.running_mean, 0.0),
                ):
                    tensor.copy_(near(value, 0.3, tensor.shape))
            elif isinstance(module, nn.PReLU):
                module.weight.copy_(near(0.2, 0.2, module.weight.shape))
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_answers_as_torch(name):
    torch.manual_seed(0)
    # With batch normalisation, which LightCNN-29 never has, there is something to fold.
    network = _as_if_trained(build_network(name, batch_norm=True, input_size=SIZE))
    with torch.inference_mode():
        expected = network(torch.from_numpy(IMAGES)).numpy()
    assert expected.shape == (3, NETWORKS[name].descriptor_size)
    # Signs, or none, as the registry says: on this the choice of the distance hangs.
    assert (expected.min() >= 0) == NETWORKS[name].non_negative
    assert np.ptp(expected, axis=0).max() > 0
    model = to_onnx(network, SIZE)
    for images, rows in ((IMAGES, expected), (IMAGES[:1], expected[:1])):
        got = OnnxModel(model).run(images)
        assert np.abs(got - rows).max() <= 1e-4 * np.abs(rows).max()
    if NETWORKS[name].non_negative:
        manifest = to_manifest(name="x", kind="descriptor", network=name, size=SIZE)
        again = network_from_artifact(Artifact(model, manifest)).eval()
        with torch.inference_mode():
            back = again(torch.from_numpy(IMAGES)).numpy()
        assert np.abs(back - expected).max() <= 1e-4 * expected.max()


@pytest.mark.parametrize("name", NETWORKS)
def test_export_leaves_the_network_that_is_built_without_batch_norm(name):
    with torch.device("meta"):
        folded = fold_batch_norm(build_network(name)).state_dict()
        built = build_network(name, batch_norm=False).state_dict()
    assert {n: t.shape for n, t in folded.items()} == {n: t.shape for n, t in built.items()}


def test_a_descriptor_is_scaled_behind_the_global_depthwise_convolution():
    network = build_network("squeezefaceposenet+gdc", input_size=SIZE).eval()
    with torch.no_grad():
        network.gdc[0].bias.uniform_(-0.5, 0.5)
        before = network(torch.from_numpy(IMAGES)).numpy()
        scale = np.linspace(0.5, 2, 1000)
        scale_descriptor(network, scale)
        after = network(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(after, before * scale, rtol=1e-4, atol=1e-5)
