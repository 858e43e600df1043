"""Looks begun with networks that were taught one by one, against what those say."""

import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.networks import build_network  # noqa: E402
from sfpose.networks.several_looks import SeveralLooks  # noqa: E402
from sfpose.networks.squeezefaceposenet import SqueezeFacePoseNet  # noqa: E402
from sfpose.training.checkpoints import save_checkpoint  # noqa: E402
from sfpose.training.export import take_common_layers  # noqa: E402
from sfpose.training.joining import join_looks, look_names  # noqa: E402
from sfpose.training.maps import place_shape, value_count  # noqa: E402
from sfpose.training.objectives import DistillationObjective  # noqa: E402
from sfpose.training.starts import _taught_state, start_network  # noqa: E402

ONE = "squeezefaceposenet+tight+places+map"
THREE = "squeezefaceposenet+centre+coarse+places+map"


@torch.inference_mode()
def _answers(network, state, images):
    network.take_map_off()
    take_common_layers(network, state)
    objective = DistillationObjective(
        torch.eye(128)[:2], value_count(network), places=place_shape(network)
    )
    take_common_layers(objective, state)
    return objective.eval().to_teacher(network.eval()(images))


def test_silent_values_are_left_out_and_their_constant_stays():
    torch.manual_seed(0)
    network = SqueezeFacePoseNet(values=40, mapped=True, places=8, input_size=40, batch_norm=False)
    state = {key: value for key, value in network.state_dict().items() if "map" not in key}
    del state["placed.weight"]
    silent = torch.randperm(40)[:25]
    state["conv10.0.weight"][silent] = 0
    state["mean"] = torch.rand(40) + 0.5
    state["mean"][silent] = 0
    state["place_divisors"] = torch.rand(8) + 0.5
    state["linear.weight"] = torch.randn(128, 40)
    state["placed.weight"] = torch.randn(128, 8 * 16)
    narrow = SqueezeFacePoseNet(values=16, mapped=True, places=8, input_size=40, batch_norm=False)
    joined = join_looks([state], narrow)
    assert joined["linear.weight"].shape == (128, 16)
    assert joined["conv10.0.weight"].shape == (16, 512, 1, 1)
    images = torch.rand(3, 3, 40, 40)
    found, expected = _answers(narrow, joined, images), _answers(network, state, images)
    # The floor of what values are divided by is a thousandth of their mean, which has changed.
    assert float((found * expected).sum(1).min()) > 0.99999
    # Given as they are, states are left alone.
    assert state["linear.weight"].shape == (128, 40)
    assert len(state["mean"]) == 40


def test_looks_are_filled_in_their_order_and_the_last_again():
    states = [_taught_state("small")]
    for count in (2, 3):
        network = SeveralLooks(values=256, coarse=count == 3, batch_norm=False)
        joined = join_looks(states, network)
        for prefix in ("whole.", "centre.", "coarse.")[:count]:
            assert torch.equal(
                joined[f"{prefix}fire5.squeeze.0.weight"], states[0]["fire5.squeeze.0.weight"]
            )
        assert look_names(joined) == look_names(network.state_dict())
        assert joined["placed.weight"].shape == (128, count * 64 * network.place_count)
        assert joined["mean"].shape == (value_count(network),)
    other = {
        key: value + 1 if key.startswith("fire5") else value for key, value in states[0].items()
    }
    joined = join_looks([states[0], other], build_network(THREE, batch_norm=False))
    key = "fire5.squeeze.0.weight"
    assert torch.equal(joined[f"whole.{key}"], states[0][key])
    assert torch.equal(joined[f"centre.{key}"], other[key])
    assert torch.equal(joined[f"coarse.{key}"], other[key])


@pytest.mark.parametrize("coarse", [False, True])
def test_looks_that_see_the_same_say_what_one_says(coarse):
    state = _taught_state("small")
    # Images without detail: all looks see the same.
    images = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 3, 100, 100).contiguous()
    images[:, 0] *= 0.5
    expected = _answers(build_network(ONE, batch_norm=False), state, images[:, :, :76, :76])
    network = SeveralLooks(values=256, coarse=coarse, batch_norm=False)
    found = _answers(network, join_looks([state], network), images)
    # Nearly: more places lie within the image, and fewer at its border.
    assert float((found * expected).sum(1).min()) > 0.85


def test_several_starts_fill_the_looks_of_one_network(tmp_path):
    begun = start_network(["small", "small"], THREE)
    assert begun.name == THREE
    assert begun.new_layers == ["map.weight", "placed.weight"]  # the objective's go into them
    assert begun.objective["linear.weight"].shape == (128, 768)
    own = begun.network.state_dict()
    assert torch.equal(own["coarse.fire2.squeeze.0.weight"], own["whole.fire2.squeeze.0.weight"])
    assert start_network(["small"]).new_layers == start_network("small").new_layers == []
    other = tmp_path / "other.pt"
    save_checkpoint(other, {"averaged": {"features.weight": torch.ones(1)}, "objective": {}})
    for starts in (["small", other], other):
        with pytest.raises(ValueError, match="must have layers of SeveralLooks; none fits"):
            start_network(starts, THREE)
    with pytest.raises(ValueError, match="start must name at least one artifact or checkpoint"):
        start_network([], THREE)
    with pytest.raises(ValueError, match="several starts are for a network of several looks"):
        start_network(["small", "small"], ONE)
