"""The map that distillation learns beside a network, and that a mapped network ships with."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.networks import build_network  # noqa: E402
from sfpose.runtime.artifact import read_artifact, write_artifact  # noqa: E402
from sfpose.training.export import (  # noqa: E402
    network_from_artifact,
    take_common_layers,
    to_manifest,
    to_onnx,
)
from sfpose.training.loop import LoopSettings, Stage  # noqa: E402
from sfpose.training.maps import (  # noqa: E402
    join_map,
    place_shape,
    placed_at,
    rebalance,
    resized_places,
    split_map,
    value_count,
)
from sfpose.training.objectives import DistillationObjective  # noqa: E402
from sfpose.training.recipes import DistillationRecipe, distil  # noqa: E402
from sfpose.training.starts import start_network  # noqa: E402

AVERAGED, PLACED = "squeezefaceposenet+deeper7+map", "squeezefaceposenet+deeper7+places+map"
SMALL, TWO = "squeezefaceposenet+tight+places+map", "squeezefaceposenet+centre+places+map"
THREE = "squeezefaceposenet+centre+coarse+places+map"
SHIPPED = [("small", SMALL, 76), ("default", THREE, 100)]
# Maps of places, and places, of images of 40x40, or of 48x48 of which 40x40 are seen.
PLACES = {PLACED: (64, 16), SMALL: (64, 16), TWO: (128, 9), THREE: (192, 4)}


def _objective(network):
    bank = torch.eye(128)[:5]
    return DistillationObjective(bank, value_count(network), places=place_shape(network)).eval()


@pytest.mark.parametrize("name", [AVERAGED, *PLACES])
def test_what_is_joined_answers_as_the_objective_does_and_comes_apart_again(name):
    torch.manual_seed(0)
    size = 48 if "+tight" in name else 40
    network, state = split_map(build_network(name, batch_norm=False, input_size=size), name, 128)
    objective = _objective(network)
    objective.load_state_dict(state, strict=False)
    objective.mean.uniform_(0.5, 2)
    if name != AVERAGED:
        assert place_shape(network) == PLACES[name]
        objective.placed.weight.data.normal_(std=0.02)
    joined = join_map(network.eval(), objective, name)
    images = torch.rand(3, 3, size, size)
    with torch.inference_mode():
        expected = objective.to_teacher(network(images))
        halves = joined(images).double().split(128, 1)
        # Where neither half is cut off, their difference is the value that was mapped.
        kept = (halves[0] > 0) & (halves[1] > 0)
        assert float(kept.float().mean()) > 0.9
        found = (halves[0] - halves[1]) / 8
        torch.testing.assert_close(found[kept], expected.double()[kept], rtol=1e-3, atol=1e-4)
        again, state = split_map(joined, name, 128)
        other = _objective(again)
        other.load_state_dict(state, strict=False)
        torch.testing.assert_close(
            other.to_teacher(again.eval()(images)), expected, rtol=1e-3, atol=1e-4
        )


def test_what_has_no_map_stays_whole_and_what_lacks_layers_is_not_joined():
    network = build_network("squeezefaceposenet+deeper7")
    assert split_map(network, "squeezefaceposenet+deeper7", 8) == (network, {})
    assert place_shape(network) == (0, 0)
    objective = DistillationObjective(torch.eye(128)[:5])
    with pytest.raises(ValueError, match=r"nothing for \['deeper\.0\.squeeze"):
        join_map(build_network("squeezefaceposenet"), objective, AVERAGED)
    with pytest.raises(ValueError, match=r"nothing for \['places\.0\.weight"):
        join_map(build_network("squeezefaceposenet+deeper7", input_size=64), objective, PLACED)


def test_places_are_taught_on_from_a_network_without_them(taught_faces, tmp_path):
    loop = LoopSettings(stages=(Stage(40, 12, 6),), optimizer="muon", learning_rate=1e-3)
    recipe = DistillationRecipe(network=PLACED, loop=loop)
    artifact, _ = distil(
        taught_faces(128), tmp_path / "run.pt", start="plain", recipe=recipe, progress=False
    )
    assert artifact.manifest["network"] == PLACED
    assert artifact.manifest["input"]["size"] == 40
    network = network_from_artifact(artifact)
    assert network.placed.weight.shape == (128, 64, 4, 4)
    assert network.placed.weight.any()
    first = tmp_path / "out"
    write_artifact(first, artifact.model, artifact.manifest)
    distil(
        taught_faces(128),
        tmp_path / "again.pt",
        start=first,
        recipe=DistillationRecipe(loop=replace(loop, learning_rate=0.0)),
        progress=False,
    )
    before, after = (
        torch.load(tmp_path / f"{run}.pt", weights_only=True)["objective"]["placed.weight"]
        for run in ("run", "again")
    )
    assert before.any()
    torch.testing.assert_close(after, before)
    # Images of another size have other places, at which their weights are drawn; all else goes on.
    loop = replace(loop, stages=(Stage(56, 6, 6),), learning_rate=0.0)
    recipe = DistillationRecipe(network=PLACED, loop=loop)
    larger = distil(
        taught_faces(128),
        tmp_path / "56.pt",
        start=tmp_path / "run.pt",
        recipe=recipe,
        progress=False,
    ).artifact
    assert larger.manifest["input"]["size"] == 56
    grown = network_from_artifact(larger)
    assert grown.placed.weight.shape == (128, 64, 6, 6)
    expected = resized_places({"placed.weight": network.placed.weight}, grown)["placed.weight"]
    torch.testing.assert_close(grown.placed.weight, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(grown.map.weight, network.map.weight)


@pytest.mark.parametrize(("shipped", "name", "size"), SHIPPED)
def test_a_run_goes_on_from_what_ships_and_ends_in_the_same_form(
    shipped, name, size, taught_faces, tmp_path
):
    loop = LoopSettings(stages=(Stage(size, 6, 6),), optimizer="muon", learning_rate=0.0)
    recipe = DistillationRecipe(loop=loop)
    artifact, _ = distil(
        taught_faces(128), tmp_path / "run.pt", start=shipped, recipe=recipe, progress=False
    )
    assert artifact.manifest["network"] == name
    assert artifact.manifest["descriptor"] == {"size": 256, "normalization": "l1"}
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    known = start_network(shipped).network.state_dict()
    assert torch.equal(state["objective"]["linear.weight"], known["map.weight"])
    layers = [key for key in known if key.endswith("fire2.squeeze.0.weight")]
    assert layers
    assert all(torch.equal(state["averaged"][key], known[key]) for key in layers)
    assert read_artifact(shipped).manifest["network"] == name
    # What does not ship is not taught: the values' own contrast is left out.
    assert "hellinger_loss" not in (tmp_path / "run.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(("shipped", "name", "size"), SHIPPED)
def test_rebalanced_filters_say_the_same(shipped, name, size):
    network, state = split_map(network_from_artifact(read_artifact(shipped)), name, 128)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))

    def answers():
        objective = _objective(network)
        objective.load_state_dict(state, strict=False)
        with torch.inference_mode():
            return objective.to_teacher(network.eval()(images))

    before = answers()
    rebalance(network, state)
    for layer in network.value_layers + network.place_layers:
        filters = layer[0].weight
        torch.testing.assert_close(
            filters.flatten(1).norm(dim=1), torch.tensor(2**0.5).expand(len(filters))
        )
    assert float((before * answers()).sum(1).min()) > 0.9999


def test_filters_of_zeros_stay_zeros_when_rebalanced():
    network, state = split_map(network_from_artifact(read_artifact("small")), SMALL, 128)
    with torch.no_grad():
        network.places[0].weight[0] = 0
        network.places[0].weight[1] *= 1e-12  # far below what float32 squares
    rebalance(network, state)
    lengths = network.places[0].weight.flatten(1).norm(dim=1)
    assert lengths[0] == 0
    torch.testing.assert_close(lengths[1:], torch.tensor(2**0.5).expand(63))
    assert torch.isfinite(state["place_divisors"]).all()


@pytest.mark.parametrize(("shipped", "name", "size"), SHIPPED)
def test_the_first_steps_from_what_ships_keep_what_it_knows(
    shipped, name, size, taught_faces, tmp_path
):
    loop = LoopSettings(stages=(Stage(size, 24, 6),), optimizer="muon", learning_rate=3e-4)
    artifact, _ = distil(
        taught_faces(128),
        tmp_path / "run.pt",
        start=shipped,
        recipe=DistillationRecipe(loop=loop),
        progress=False,
    )
    assert artifact.manifest["network"] == name
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = (
            network_from_artifact(each)(images).unflatten(1, (2, 128)).diff(dim=1)[:, 0]
            for each in (read_artifact(shipped), artifact)
        )
    assert float(torch.cosine_similarity(before, after).min()) > 0.9


def test_a_teacher_of_another_width_is_refused_before_training(taught_faces, tmp_path):
    recipe = DistillationRecipe(network=AVERAGED)
    with pytest.raises(ValueError, match=r"embeddings must have 128 values.*got 8"):
        distil(taught_faces(8), tmp_path / "run.pt", recipe=recipe, progress=False)
    assert not (tmp_path / "run.pt").exists()


def test_a_state_without_one_buffer_gives_the_others():
    objective = DistillationObjective(torch.eye(128)[:5], places=(64, 16))
    state = {key: value + 1 for key, value in objective.state_dict().items()}
    del state["place_divisors"]
    assert take_common_layers(objective, state) == []
    torch.testing.assert_close(objective.mean, torch.full((1000,), 2.0))
    torch.testing.assert_close(objective.place_divisors, torch.ones(64))


def test_a_network_without_a_map_leaves_it_to_the_objective(tmp_path):
    torch.manual_seed(0)
    whole = build_network(AVERAGED, batch_norm=False, input_size=64).eval()
    manifest = to_manifest(name="mapped", kind="descriptor", network=AVERAGED, size=64)
    path = write_artifact(tmp_path / "mapped", to_onnx(whole, 64), manifest)
    # The modules of the one, which the other lacks, begin by adding nothing.
    begun = start_network(path, "squeezefaceposenet", input_size=64)
    assert begun.new_layers == []
    objective = DistillationObjective(torch.eye(128)[:5]).eval()
    objective.load_state_dict(begun.objective, strict=False)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = objective.to_teacher(begun.network.eval()(images))
        plus, minus = whole(images).split(128, 1)
        expected = torch.nn.functional.normalize(plus - minus, dim=1)
    assert float((found * expected).sum(1).min()) > 0.999


def test_weights_of_places_are_drawn_at_the_places_of_another_size():
    one, larger = start_network("small"), start_network("small", input_size=96)
    assert (larger.name, larger.new_layers) == (one.name, [])
    assert larger.network.input_size == 96  # of which 80 are seen
    weight, drawn = (each.network.placed.weight.detach() for each in (one, larger))
    assert (weight.shape, drawn.shape) == ((128, 64, 7, 7), (128, 64, 9, 9))
    expected = scipy.ndimage.zoom(
        weight[3, 5].double().numpy(), 9 / 7, order=1, mode="nearest", grid_mode=True
    )
    np.testing.assert_allclose(drawn[3, 5].numpy() * 81, expected * 49, rtol=1e-4, atol=1e-5)
    # The objective, which divides by the number of places itself, says the same of both.
    parts = [split_map(each.network, each.name, 128)[1] for each in (one, larger)]
    redrawn = resized_places(parts[0], larger.network)["placed.weight"]
    torch.testing.assert_close(redrawn, parts[1]["placed.weight"], rtol=1e-4, atol=1e-6)
    after = larger.network.state_dict()
    for key, value in one.network.state_dict().items():
        assert "placed" in key or torch.equal(after[key], value)


@pytest.mark.parametrize("side", [4, 12])
def test_weights_of_places_are_drawn_as_pillow_draws_them(side):
    """Of fewer places each one stands for all that it covers."""
    weight = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    images = [Image.fromarray(each) for each in weight.numpy().reshape(-1, 9, 9)]
    drawn = [np.asarray(each.resize((side, side), Image.Resampling.BILINEAR)) for each in images]
    expected = np.reshape(drawn, (3, 2, side, side)) * (9 / side)
    flat = placed_at(weight.flatten(1), 2, side)
    np.testing.assert_allclose(flat.numpy(), expected.reshape(3, -1), atol=1e-5)
    np.testing.assert_allclose(placed_at(weight, 2, side), expected * (9 / side), atol=1e-5)


def test_states_whose_places_fit_or_are_none_stay_as_they_are():
    network = start_network("small").network
    plain = build_network("squeezefaceposenet")
    for state in (network.state_dict(), plain.state_dict(), {"placed.weight": torch.ones(128, 90)}):
        assert resized_places(state, network) is state
        assert resized_places(state, plain) is state


def test_only_networks_whose_values_are_known_are_distilled(taught_faces, tmp_path):
    # Of ResNet-50's 2048 values a map of 1000 would have taken the first ones.
    recipe = DistillationRecipe(
        network="resnet50", loop=LoopSettings(stages=(Stage(64, 4, 4),), seed=0)
    )
    with pytest.raises(ValueError, match="SqueezeFacePoseNet and its variants; got ResNet50"):
        distil(taught_faces(8), tmp_path / "run.pt", recipe=recipe, progress=False)
    assert not (tmp_path / "run.pt").exists()
