"""The mean of the weights of several runs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
onnx = pytest.importorskip("onnx", reason="exporting needs the [train] extra")

from sfpose.cli import main  # noqa: E402
from sfpose.networks.squeezefaceposenet import Fire  # noqa: E402
from sfpose.runtime.artifact import Artifact, read_artifact, write_artifact  # noqa: E402
from sfpose.runtime.session import OnnxModel  # noqa: E402
from sfpose.training.averaging import mean_of_weights  # noqa: E402
from sfpose.training.balancing import balance  # noqa: E402
from sfpose.training.export import (  # noqa: E402
    changed_manifest,
    network_from_artifact,
    to_onnx,
)

FORM = "squeezefaceposenet+tight+places+map"


@pytest.fixture
def run(random_mapped):
    """What a run of that seed ends in: made by the random numbers, and of one form."""

    def made(seed, size=None):
        return random_mapped(FORM, name=f"run{seed}", seed=seed, size=size)

    return made


def _weights(artifact):
    stored = onnx.load_from_string(artifact.model).graph.initializer
    return {each.name: onnx.numpy_helper.to_array(each).astype(np.float64) for each in stored}


def _at_one_scale(artifact):
    """The weights with every layer at a scale of its own, of which means can be taken."""
    network = network_from_artifact(artifact).eval()
    balance(network, artifact.network_input.size)
    return {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}


def test_weights_are_the_mean_of_those_given_and_the_network_answers_by_them(run):
    runs = [run(seed) for seed in range(3)]
    made = mean_of_weights(runs)
    assert made.manifest["name"] == "run0-mean"
    found = network_from_artifact(made).state_dict()
    given = [_at_one_scale(each) for each in runs]
    assert len(found) > 50
    for name, values in found.items():
        mean = sum(each[name] for each in given) / 3
        np.testing.assert_allclose(values.numpy(), mean, rtol=1e-4, atol=1e-5)
    images = np.random.default_rng(0).normal(size=(2, 3, 76, 76)).astype(np.float32)
    rows, *others = (OnnxModel(each.model).run(images) for each in (made, *runs))
    assert min(np.abs(rows - other).max() for other in others) > 0.01
    same = OnnxModel(mean_of_weights([runs[0], runs[0]]).model).run(images)
    np.testing.assert_allclose(same, others[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "small"])
def test_layers_may_lie_at_other_scales_in_each(name):
    """As those of a run and of the shipped weights that it went on from: they say the same."""
    shipped = read_artifact(name)
    network = network_from_artifact(shipped).eval()
    size = shipped.network_input.size
    with torch.no_grad():
        for fire in (module for module in network.modules() if isinstance(module, Fire)):
            for part in fire.squeeze[0].parameters():
                part.mul_(1e-6)
            for expand in (fire.expand1x1, fire.expand3x3):
                expand[0].weight.mul_(1e6)
    other = Artifact(to_onnx(network, size), changed_manifest(shipped, "other", None))
    images = np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)
    rows, expected = (
        OnnxModel(each.model).run(images) for each in (mean_of_weights([shipped, other]), other)
    )
    np.testing.assert_allclose(rows, expected, atol=1e-4 * np.abs(expected).max())


def test_a_mean_has_no_thresholds():
    whole = read_artifact("plain")
    assert "calibration" in whole.manifest
    assert "calibration" not in mean_of_weights([whole, whole]).manifest


def test_shipped_weights_are_averaged_as_the_float32_values_that_they_stand_for():
    """Each layer's filters, but for its scale, are those whose eight bits ship."""
    shipped = read_artifact("small")
    made = mean_of_weights([shipped, shipped])
    assert not {"quantization", "mirrored", "calibration"} & made.manifest.keys()
    found, given = _weights(made), _weights(shipped)
    compared = 0
    for name, values in found.items():
        if name.endswith("weight") and f"{name}_quantized" in given:
            stored, zero, scale = (
                given[f"{name}_{part}"] for part in ("quantized", "zero_point", "scale")
            )
            filters = (-1, *[1] * (stored.ndim - 1))
            stands_for = (stored - zero.reshape(filters)) * scale.reshape(filters)
            if name == "map.weight":
                stands_for = stands_for.T  # it multiplies from the other side there
            values, stands_for = (each.reshape(len(each), -1) for each in (values, stands_for))
            factors = (values * stands_for).sum(1) / (stands_for**2).sum(1)
            apart = np.linalg.norm(values - factors[:, None] * stands_for, axis=1)
            assert (apart <= 1e-5 * np.linalg.norm(values, axis=1)).all()
            compared += 1
    assert compared > 20


def test_what_has_no_mean_is_refused(run):
    one = run(0)
    with pytest.raises(ValueError, match="must be of two artifacts or more; got 1"):
        mean_of_weights([one])
    with pytest.raises(ValueError, match=r"of one form; their network are .*places.* and 'squee"):
        mean_of_weights([one, read_artifact("plain")])
    with pytest.raises(ValueError, match=r"of one form; their input are .*76.*64"):
        mean_of_weights([one, run(0, size=64)])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "landmarks"),
        ("alignment", {"landmarks": "other"}),
        ("descriptor", {"size": 256, "normalization": "l1", "less_mean": 0.5}),
    ],
)
def test_runs_that_see_or_say_otherwise_have_no_mean(run, key, value):
    one, other = run(0), run(1)
    other = Artifact(other.model, {**other.manifest, key: value})
    for given in ([one, other], [other, one]):
        with pytest.raises(ValueError, match=f"of one form; their {key} are "):
            mean_of_weights(given)


def test_the_command_averages_what_it_is_given(run, tmp_path, capsys):
    paths = []
    for seed in range(2):
        made = run(seed)
        paths.append(str(write_artifact(tmp_path / str(seed), made.model, made.manifest)))
    out = tmp_path / "mean"
    assert main(["export", "--target", "mean", "--weights", *paths, "--out", str(out)]) == 0
    expected = mean_of_weights([read_artifact(path) for path in paths])
    assert read_artifact(out).model == expected.model
    assert main(["export", "--weights", *paths, "--out", str(tmp_path / "two")]) == 2
    assert "--weights must be one for onnx; got 2" in capsys.readouterr().err
    assert main(["export", "--target", "mean", "--out", str(tmp_path / "one")]) == 2
    assert "must be of two artifacts or more; got 1" in capsys.readouterr().err
