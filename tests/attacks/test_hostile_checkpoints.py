"""States and checkpoints that are damaged or lie: refused with a reason, and nothing is changed."""

import io
import os
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from test_hostile_data_sets import within_seconds  # noqa: E402
from test_training_paper import make_people  # noqa: E402
from test_training_schedules import Halves, Rows  # noqa: E402

from sfpose.networks import build_network  # noqa: E402
from sfpose.networks.imagenet import fill_from_state, read_state  # noqa: E402
from sfpose.networks.tensor_files import load_without_code  # noqa: E402
from sfpose.training.checkpoints import RUN_ENTRIES, load_checkpoint, save_checkpoint  # noqa: E402
from sfpose.training.loop import LoopSettings, Stage, train  # noqa: E402
from sfpose.training.margins import ArcFaceObjective  # noqa: E402
from sfpose.training.paper import PaperRecipe, PaperStage, train_paper  # noqa: E402
from sfpose.training.people import PeopleFolder  # noqa: E402
from sfpose.training.starts import start_network  # noqa: E402


def _saved(value, **options):
    data = io.BytesIO()
    torch.save(value, data, **options)
    return data.getvalue()


def _changed(data, rng):
    """One to two changes: a byte, bytes lost, bytes more, or the end cut off."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 3)):
        kind, at = rng.integers(0, 4), int(rng.integers(0, max(len(data), 1)))
        if kind == 0 and data:
            data[at] = int(rng.integers(0, 256))
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 20))]
        elif kind == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 8)))
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def _repacked(data, change):
    """The same zip with another pickle."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(whole, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return whole.getvalue()


PICKLES = [
    b"\x80\x02h\x05.",
    b"\x80\x02X\x01\0\0\0\xff.",
    b"\x80\x02e.",
    b"\x80\x02}q\0.",
    b"PK\x03\x04",
]
PICKLES += [b"", b"x" * 100, b"I99999999999999999999999\n.", b"\x80\x05\x95" + b"\xff" * 8]


def test_no_damage_of_a_state_raises_anything_but_the_errors_that_are_promised(tmp_path):
    state = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    new, old = _saved(state), _saved(state, _use_new_zipfile_serialization=False)
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "state.pth", []
    kinds = [lambda: _repacked(new, lambda data: _changed(data, rng))] * 2
    kinds += [lambda: _changed(old, rng), lambda: _changed(new, rng)]
    for data in [*PICKLES, *(make() for make in kinds for _ in range(150))]:
        path.write_bytes(data)
        try:
            read_state(path)
        except ValueError as error:
            refused.append((type(error), "state.pth must hold " in str(error)))
    assert set(refused) == {(ValueError, True)}
    assert len(refused) > 400


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({1: torch.zeros(1)}, "tensors by name; 1 is a Tensor"),
        ({"a": [1.0]}, "tensors by name; 'a' is a list"),
        ({"a": torch.eye(3).to_sparse()}, "dense tensors of real numbers; 'a' is sparse"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "real numbers; 'a' is complex"),
    ],
)
def test_states_of_other_things_are_refused(tmp_path, state, message):
    torch.save(state, tmp_path / "state.pth")
    with pytest.raises(ValueError, match=message):
        read_state(tmp_path / "state.pth")


@pytest.mark.parametrize("name", ["state.pth", "run.pt"])
def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path, name):
    """torch itself would fill 200 MB."""
    path = tmp_path / name
    data = _saved({"format": 1, "a": torch.zeros(5 * 10**7)})
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", 8) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    assert path.stat().st_size < 10**6
    for read in (load_without_code, load_checkpoint):
        with pytest.raises(ValueError, match="ValueError: it is compressed"):
            read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_is_no_checkpoint_and_nothing_is_none(tmp_path):
    os.mkfifo(tmp_path / "run.pt")
    read = "from sfpose.training.checkpoints import load_checkpoint; load_checkpoint(sys.argv[1])"
    assert "must be an ordinary file; " in within_seconds(read, tmp_path / "run.pt", seconds=60)
    with pytest.raises(ValueError, match="must be an ordinary file; "):
        start_network(str(tmp_path / "run.pt"))
    with pytest.raises(FileNotFoundError, match=r"there must be a file .*none\.pt'; there is none"):
        load_checkpoint(tmp_path / "none.pt")


UNUSUAL = {
    "sparse": lambda value: value.to_sparse(),
    "complex": lambda value: value.to(torch.complex64),
    "without values": lambda value: value.to("meta"),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.quint8),
    "list": lambda value: value.tolist(),
    "must be finite": lambda value: value * float("nan"),
    "are not": lambda value: value.double() * 1e300,
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_a_state_is_copied_as_a_whole_or_not_at_all(kind):
    """Its last layer is another thing; the ones before fit."""
    network = build_network("squeezefaceposenet")
    names = dict(network.named_parameters())
    before = {name: value.detach().clone() for name, value in names.items()}
    from sfpose.networks.imagenet import _squeezenet_name

    state = {_squeezenet_name(name): torch.full_like(value, 7.0) for name, value in before.items()}
    state.pop(None, None)
    last = list(state)[-1]
    state[last] = UNUSUAL[kind](state[last])
    with pytest.raises(ValueError, match=f"{last}.*{kind}"):
        fill_from_state(network, state)
    assert all(torch.equal(names[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", ["sparse", "flat"])
def test_a_first_layer_that_is_to_be_reversed_is_looked_at_first(kind):
    from sfpose.networks.imagenet import _resnet_name, fill_from_resnet

    network = build_network("resnet50")
    state = {_resnet_name(name): value for name, value in network.state_dict().items()}
    first = state["conv1.weight"]
    state["conv1.weight"] = first.to_sparse() if kind == "sparse" else first.flatten()
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        fill_from_resnet(network, state, bgr=True)


@pytest.mark.parametrize(
    "stated", [torch.tensor([1, 1]), torch.tensor(1), True, 1.0, None, "1", [1]]
)
def test_formats_that_only_look_like_the_number_are_refused(tmp_path, stated):
    torch.save({"format": stated}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="must have format 1; got another file"):
        load_checkpoint(tmp_path / "run.pt")


SETTINGS = LoopSettings(stages=(Stage(8, 32, 16),), learning_rate=0.01, device="cpu")


def _run(path):
    torch.manual_seed(2)
    return train(
        Rows(), ArcFaceObjective(6, 2), Halves(), SETTINGS, checkpoint=path, progress=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.pt"
    _run(path)
    return load_checkpoint(path, RUN_ENTRIES)


def test_a_run_keeps_what_it_needs_to_go_on(run):
    assert {*run} == {"format", *RUN_ENTRIES}


@pytest.mark.parametrize("name", RUN_ENTRIES)
def test_a_checkpoint_without_an_entry_is_refused(run, tmp_path, name):
    save_checkpoint(tmp_path / "run.pt", {key: run[key] for key in RUN_ENTRIES if key != name})
    with pytest.raises(ValueError, match=f"must have an entry '{name}'; it has none"):
        _run(tmp_path / "run.pt")


@pytest.mark.parametrize("name", ["averaged", "objective"])
def test_a_start_without_its_weights_is_refused(run, tmp_path, name):
    save_checkpoint(tmp_path / "run.pt", {key: run[key] for key in RUN_ENTRIES if key != name})
    for start in (tmp_path / "run.pt", [tmp_path / "run.pt"] * 2):
        with pytest.raises(ValueError, match=f"must have an entry '{name}'; it has none"):
            start_network(start)


OTHER = [5, None, "x", [1], {1: 2}, {"a": torch.zeros(2).to_sparse()}, {"a": [{1: 2}]}]


@pytest.mark.parametrize("name", RUN_ENTRIES)
@pytest.mark.parametrize("value", range(len(OTHER)))
def test_entries_of_another_form_are_refused(run, tmp_path, name, value):
    if name == "seen" and value == 0:
        pytest.skip("a whole number is one")
    save_checkpoint(tmp_path / "run.pt", {**run, name: OTHER[value]})
    with pytest.raises(ValueError, match=f"entry '{name}' .*must|must be of the same"):
        _run(tmp_path / "run.pt")


@pytest.mark.parametrize(
    "optimizers",
    [
        [],
        [{}],
        [{"param_groups": []}],
        [{"param_groups": 5, "state": {}}],
        [{"param_groups": [{}], "state": {}}],
        [{"param_groups": [{"params": 5}], "state": {}}],
    ],
)
def test_optimisers_of_another_form_are_refused(run, tmp_path, optimizers):
    save_checkpoint(tmp_path / "run.pt", {**run, "optimizers": optimizers})
    with pytest.raises(ValueError, match="must be of the same network, objective, optimiser"):
        _run(tmp_path / "run.pt")


def test_a_checkpoint_of_no_run_is_of_no_run_of_the_paper(run, tmp_path):
    people = make_people(tmp_path / "people")
    save_checkpoint(tmp_path / "run.stage1.pt", {**run, "run": {"seed": 9}})
    recipe = PaperRecipe(size=32, batch_size=8, max_epochs=1, workers=0, device="cpu")
    stages = [PaperStage(PeopleFolder(people))]
    with pytest.raises(ValueError, match=r"of another seed \(9 there, 0 here\)"):
        train_paper(stages, tmp_path / "run.pt", recipe=recipe, progress=False)
    save_checkpoint(tmp_path / "run.stage1.pt", {"seen": 5})
    with pytest.raises(ValueError, match=r"run\.stage1\.pt must have an entry 'run'; it has none"):
        train_paper(stages, tmp_path / "run.pt", recipe=recipe, progress=False)
