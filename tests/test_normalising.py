"""Batch normalisation for modules that would fall silent without it."""

import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")

from sfpose.networks import build_network  # noqa: E402
from sfpose.training.export import fold_batch_norm, network_from_artifact  # noqa: E402
from sfpose.training.loop import LoopSettings, Stage  # noqa: E402
from sfpose.training.maps import place_shape, split_map  # noqa: E402
from sfpose.training.normalising import (  # noqa: E402
    lacks_batch_norm,
    normalise_last,
    silent_modules,
)
from sfpose.training.objectives import DistillationObjective  # noqa: E402
from sfpose.training.recipes import DistillationRecipe, distil  # noqa: E402
from sfpose.training.starts import start_network  # noqa: E402

PLACED = "squeezefaceposenet+deeper7+places+map"


def _network(name, *, batch_norm=False):
    """One whose modules all add something, as those of a trained network."""
    torch.manual_seed(0)
    network = build_network(name, batch_norm=batch_norm, input_size=40)
    with torch.no_grad():
        for key, value in network.named_parameters():
            if key.startswith("deeper") and key.endswith("0.weight"):
                torch.nn.init.kaiming_normal_(value)
            elif key.endswith("0.bias"):
                value.normal_(std=0.1)
        # As weights grow without normalisation.
        for layer in ("fire5.squeeze.0", "fire8.squeeze.0"):
            network.get_submodule(layer).weight.mul_(1e3)
    return network


def _images(count=24):
    return torch.randn(count, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def _silence(network, name):
    with torch.no_grad():
        network.get_submodule(name).squeeze[0].bias.fill_(-1e12)


@pytest.mark.parametrize("places_normalised", [False, None])
def test_a_normalised_network_says_the_same_to_its_objective(places_normalised):
    network, state = split_map(_network(PLACED, batch_norm=places_normalised), PLACED, 128)
    images = _images()
    if places_normalised is None:
        network.places[1].momentum = None  # the mean of what it saw
        with torch.no_grad():
            network.train()(images)
    network.eval()
    # What the objective divides by already counts on.
    drawn = torch.rand(2, 1000, generator=torch.Generator().manual_seed(3)) + 0.5
    state |= {"mean": drawn[0], "place_divisors": drawn[1, : place_shape(network)[0]]}
    normalised_state = dict(state)
    normalised = normalise_last(network, normalised_state, images).eval()
    assert lacks_batch_norm(network)
    assert not lacks_batch_norm(normalised)
    found = []
    with torch.inference_mode():
        for each, known in ((network, state), (normalised, normalised_state)):
            objective = DistillationObjective(torch.eye(128)[:5], places=place_shape(each)).eval()
            objective.load_state_dict(known, strict=False)
            objective.placed.weight.data.normal_(
                std=0.02, generator=torch.Generator().manual_seed(2)
            )
            outputs = each(images)
            found.append((outputs[:, :1000], objective.to_teacher(outputs)))
        again = fold_batch_norm(normalised)(images)[:, :1000]
    ratio = float(found[0][0].mean() / found[1][0].mean())
    assert ratio > 1e3
    scale = float(found[1][0].max())
    torch.testing.assert_close(found[1][0], found[0][0] / ratio, rtol=1e-3, atol=1e-4 * scale)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again, found[1][0], rtol=1e-3, atol=1e-4 * scale)
    # On the images that it was measured on, training sees what evaluation does.
    with torch.no_grad():
        trained = normalised.train()(images)[:, :1000]
    torch.testing.assert_close(trained, found[1][0], rtol=2e-2, atol=2e-2 * scale)


def test_silent_modules_are_found_and_learn_again():
    name = "squeezefaceposenet+deeper"
    network, images = _network(name), _images()
    assert silent_modules(network, images) == []
    for silent in ("deeper.0", "deeper.3"):
        _silence(network, silent)
    assert silent_modules(network, images) == ["deeper.0", "deeper.3"]
    with torch.inference_mode():
        before = network.eval()(images)
    state = {}
    woken = normalise_last(network, state, images).eval()
    with torch.inference_mode():
        after = woken(images) / state["mean"]
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * float(before.max()))
    optimizer = torch.optim.Adam(woken.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        woken.train()(images).square().mean().backward()
        optimizer.step()
    gradients = {key: value.grad for key, value in woken.named_parameters() if "deeper" in key}
    assert all(bool(each.any()) for each in gradients.values())
    assert silent_modules(woken, images) == []


def test_filters_shorter_than_random_ones_are_as_long_as_those():
    network, images = _network("squeezefaceposenet+deeper"), _images()
    layers = ["fire9.squeeze", "fire9.expand3x3", "deeper.1.expand1x1", "conv10"]
    with torch.no_grad():
        for name in layers:
            convolution = network.get_submodule(name)[0]
            for part in (convolution.weight, convolution.bias):
                part[:4] *= 1e-3
                part[4:8] *= 1e2
        before = network.eval()(images)
    state = {}
    normalised = normalise_last(network, state, images).eval()
    for name in layers:
        old, new = (
            each.get_submodule(name)[0].weight.detach().double().flatten(1).norm(dim=1)
            for each in (network, normalised)
        )
        assert bool((old[:4] < 0.1).all() and (old[4:8] > 10).all())
        torch.testing.assert_close(new, old.clamp(min=2**0.5))
    with torch.inference_mode():
        after = normalised(images) / state["mean"]
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * float(before.max()))


def test_what_is_another_network_or_normalised_is_refused():
    for network in (
        build_network("squeezefaceposenet+gdc", input_size=40),
        build_network("lightcnn29"),
        normalise_last(_network("squeezefaceposenet+deeper"), {}, _images()),
    ):
        assert not lacks_batch_norm(network)
        with pytest.raises(ValueError, match="must be a SqueezeFacePoseNet that ends in a global"):
            normalise_last(network, {}, _images())
    assert silent_modules(build_network("squeezefaceposenet"), _images()) == []


def test_a_run_of_distil_normalises_and_exports_without(taught_faces, tmp_path):
    faces = taught_faces(128)
    loop = LoopSettings(stages=(Stage(40, 60, 6),), optimizer="muon", learning_rate=1e-3)
    recipe = DistillationRecipe(network=PLACED, loop=loop)
    first = tmp_path / "first.pt"
    artifact, _ = distil(faces, first, start="plain", recipe=recipe, progress=False)
    exported = network_from_artifact(artifact)
    assert silent_modules(exported, _images()) == []
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in exported.modules())
    begun = start_network(first, PLACED, input_size=40)
    assert begun.new_layers == ["map.weight", "placed.weight"]
    kept = torch.load(first, weights_only=True)["averaged"]
    assert "deeper.6.expand3x3.1.running_var" in kept
    for key, value in begun.network.state_dict().items():
        if key in kept:
            assert torch.equal(value, kept[key])
    # One without modules takes fire9 as it was taught.
    plain = start_network(first, "squeezefaceposenet+places+map", input_size=40)
    assert plain.new_layers == ["map.weight", "placed.weight"]
    with pytest.raises(ValueError, match="start must have layers of LightCNN29; none fits"):
        start_network(first, "lightcnn29")
    # Finished already: resuming it gives the same file.
    again = distil(faces, first, start="plain", recipe=recipe, progress=False)
    assert again.artifact.model == artifact.model
