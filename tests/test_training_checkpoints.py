"""Which checkpoint a run goes on from, and which it refuses."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnx", reason="training needs the [train] extra")

from test_training_paper import make_people  # noqa: E402
from test_training_schedules import Halves, Rows  # noqa: E402

import sfpose.training.paper as paper  # noqa: E402
from sfpose.cli import main  # noqa: E402
from sfpose.training.checkpoints import (  # noqa: E402
    load_checkpoint,
    start_digest,
    taught_facts,
)
from sfpose.training.loop import LoopSettings, Stage, train  # noqa: E402
from sfpose.training.margins import ArcFaceObjective, CosFaceObjective  # noqa: E402
from sfpose.training.mixing import Blends, Pairs  # noqa: E402
from sfpose.training.paper import PaperRecipe, PaperStage, train_paper  # noqa: E402
from sfpose.training.people import PeopleFolder  # noqa: E402
from sfpose.training.recipes import DistillationRecipe, distil  # noqa: E402
from sfpose.training.settings import falling_stages  # noqa: E402

SETTINGS = LoopSettings(
    stages=(Stage(8, 32, 16, (1.0, 0.5)), Stage(10, 32, 16, (0.5, 0.0))),
    learning_rate=0.01,
    device="cpu",
    facts={"light": 0.5},
)


class Sized(Rows):
    """Takes images of any size, and can keep its weights."""

    def forward(self, images):
        return super().forward(images[:, :, :8])


def _run(path, settings=SETTINGS, objective=None, frozen=False):
    torch.manual_seed(2)
    network = Sized().requires_grad_(not frozen)
    objective = objective or ArcFaceObjective(6, 2)
    return train(network, objective, Halves(), settings, checkpoint=path, progress=False)


def _stages(first, second):
    return {"stages": (replace(SETTINGS.stages[0], **first), replace(SETTINGS.stages[1], **second))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.pt"
    _run(path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 1},
            r"another seed \(0 there, 1 here\): give another checkpoint, or the settings",
        ),
        ({"learning_rate": 0.02}, r"another learning rate \(0\.01 there, 0\.02 here\)"),
        ({"weight_decay": 0.0}, "another weight decay"),
        ({"optimizer": "nesterov"}, "another optimizer"),
        ({"average": 0.5}, "another average"),
        ({"clip": 1.0}, "another clip"),
        ({"warmup": 0.1}, "another warmup"),
        ({"head_factor": 10.0}, "another head factor"),
        ({"facts": {"light": 0.7}}, r"another light \(0\.5 there, 0\.7 here\)"),
        (_stages({"size": 9}, {}), r"another image sizes \(\[8, 10\] there, \[9, 10\] here\)"),
        (_stages({}, {"batch_size": 8}), "another batch sizes"),
        (_stages({"images": 48}, {}), "another images before the last stage"),
        (_stages({}, {"rates": (0.5, 0.1)}), "another shares of the rate"),
        (_stages({}, {}) | {"seed": 3, "clip": 2.0}, "another seed .*, clip "),
    ],
)
def test_the_checkpoint_of_a_run_of_other_settings_is_refused(finished, changes, message):
    before = finished.read_bytes()
    with pytest.raises(ValueError, match=f"must be of the same run; it is of {message}"):
        _run(finished, replace(SETTINGS, **changes))
    assert finished.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": CosFaceObjective(6, 2)}, "objective .ArcFaceObjective there, CosFace"),
        ({"objective": ArcFaceObjective(6, 2, margin=0.4)}, "objective's margin .0.5 there, 0.4"),
        ({"frozen": True}, "another parameters that learn"),
    ],
)
def test_the_checkpoint_of_another_task_is_refused(finished, changes, message):
    with pytest.raises(ValueError, match=message):
        _run(finished, **changes)


def test_a_run_may_end_later_or_earlier_and_run_elsewhere(tmp_path):
    path = tmp_path / "run.pt"
    _run(path)
    elsewhere = {"device": "auto", "precision": "float32", "checkpoint_minutes": 1.0}
    _run(path, replace(SETTINGS, **_stages({}, {"images": 64}), **elsewhere))
    state = load_checkpoint(path)
    assert (state["seen"], len(state["history"])) == (96, 3)
    before = path.read_bytes()
    _run(path, replace(SETTINGS, **_stages({}, {"images": 16})))
    assert path.read_bytes() == before


def test_a_rate_that_falls_in_one_line_may_fall_for_longer(tmp_path):
    """Its share at the second stage is another one then."""
    path, first = tmp_path / "run.pt", falling_stages(SETTINGS, [(8, 32), (10, 32)], [0.02])
    longer = falling_stages(SETTINGS, [(8, 32), (10, 64)], [0.02])
    assert first.stages[0].rates != longer.stages[0].rates
    _run(path, first)
    _run(path, longer)
    assert load_checkpoint(path)["seen"] == 96
    other = falling_stages(SETTINGS, [(8, 32), (10, 64)], [0.02, 0.005])
    with pytest.raises(ValueError, match=r"shares of the rate \(\[1\.0\] there, \[1\.0, 0\.25\]"):
        _run(path, other)


def test_numbers_of_numpy_are_read_again(tmp_path):
    path = tmp_path / "run.pt"
    facts = {"count": np.int64(3), "share": np.float32(0.5), "sizes": (np.int32(8), 9)}
    for _ in range(2):
        _run(path, replace(SETTINGS, facts=facts))
    assert load_checkpoint(path)["run"]["sizes"] == [8, 9]


def test_what_is_taught_tells_a_run_from_others(taught_faces, tmp_path):
    faces = taught_faces(8)
    rows = np.array([[0, 1], [2, 3]])
    pairs = Pairs(rows, rows > 1, np.full(2, 0.5, np.float32), np.full(2, 0.4, np.float32))
    blends = Blends(pairs, np.ones((2, 8), np.float32))
    surface = tmp_path / "face.safetensors"
    surface.write_bytes(b"surface")
    given = {"blends": blends, "landmarks": faces.landmarks}
    first = taught_facts(faces, "plain", surface, **given)
    assert taught_facts(taught_faces(8), "plain", surface, **given) == first

    def differs(faces=faces, start="plain", surface=surface, **changes):
        facts = taught_facts(faces, start, surface, **{**given, **changes})
        return [name for name in first if facts[name] != first[name]]

    assert differs(start=None) == differs(start="small") == ["start"]
    assert differs(surface=None) == ["face surface"]
    assert differs(landmarks=faces.landmarks + 1) == ["landmarks"]
    assert differs(blends=None) == ["blends"]
    assert differs(blends=Blends(pairs, blends.embeddings / 2)) == ["blends"]
    assert differs(replace(faces, photos=faces.photos + np.uint8(1))) == ["photos"]
    assert differs(replace(faces, held_out=~faces.held_out)) == ["photos"]
    assert differs(replace(faces, embeddings=faces.embeddings / 2)) == ["what the teacher says"]
    surface.write_bytes(b"another")
    assert differs() == ["face surface"]


def test_a_start_is_known_by_what_it_holds(tmp_path):
    for name, text in (("a.pt", "1"), ("b.pt", "1"), ("c.pth", "2"), ("d.safetensors", "3")):
        (tmp_path / name).write_text(text)
    a, b, c, d = (start_digest(path) for path in sorted(tmp_path.iterdir()))
    assert a == b == start_digest([tmp_path / "a.pt"])
    assert len({a, c, d, start_digest("plain"), start_digest("small")}) == 5
    assert start_digest(["plain", "small"]) != start_digest(["small", "plain"])
    assert start_digest(None) is None


def test_a_distillation_goes_on_from_its_own_checkpoint_alone(taught_faces, tmp_path):
    loop = LoopSettings(stages=(Stage(32, 12, 6),), optimizer="muon", learning_rate=1e-3)
    recipe = DistillationRecipe(loop=loop)
    path = tmp_path / "run.pt"
    faces = taught_faces(8)

    def run(recipe=recipe, faces=faces, start=None):
        return distil(faces, path, start=start, recipe=recipe, progress=False).artifact

    first = run()
    before = path.read_bytes()
    for changes, message in (
        ({"recipe": replace(recipe, light=0.5)}, r"light \(1\.0 there, 0\.5 here\)"),
        ({"recipe": replace(recipe, turned_share=0.1)}, "turned_share"),
        ({"recipe": replace(recipe, jitter=0.5)}, "jitter"),
        ({"recipe": replace(recipe, cosine_temperature=0.1)}, "cosine_temperature"),
        ({"recipe": replace(recipe, loop=replace(loop, seed=1))}, "seed"),
        ({"start": "plain"}, "start"),
        ({"faces": replace(faces, photos=255 - faces.photos)}, "photos"),
    ):
        with pytest.raises(ValueError, match=f"must be of the same run; it is of .*{message}"):
            run(**changes)
    assert path.read_bytes() == before
    assert run().model == first.model
    # Begun from, it is no checkpoint of the new run.
    second = tmp_path / "second.pt"
    other = replace(recipe, light=0.5)
    distil(faces, second, start=path, recipe=other, progress=False)
    assert load_checkpoint(second)["finished"]


def test_a_second_command_does_not_give_the_first_ones_model(
    taught_faces, tmp_path, monkeypatch, capsys
):
    faces = taught_faces(8)
    monkeypatch.setattr("sfpose.training.faces.load_taught_faces", lambda *_: faces)
    monkeypatch.chdir(tmp_path)
    command = ["train", "landmarks", "data", "--device", "cpu", "--batch-size", "6"]
    stages = ["--stages", "64:12", "--rate"]
    assert main([*command, *stages, "0.001", "--out", "first"]) == 0
    assert (tmp_path / "runs" / "first.pt").exists()
    for other in (["0.002"], ["0.001", "--seed", "4"], ["0.001", "--start", "landmarks"]):
        given = ["--checkpoint", "runs/first.pt", "--out", "second"]
        assert main([*command, *stages, *other, *given]) == 2
        assert "runs/first.pt must be of the same run; it is of another" in capsys.readouterr().err
    faces = replace(faces, photos=255 - faces.photos)
    before = (tmp_path / "first" / "manifest.json").read_bytes()
    assert main([*command, *stages, "0.001", "--out", "first"]) == 2
    assert "'first' must not exist, or --overwrite be given" in capsys.readouterr().err
    assert (tmp_path / "first" / "manifest.json").read_bytes() == before
    assert main([*command, *stages, "0.001", "--out", "first", "--overwrite"]) == 2
    assert "another photos (" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
    assert main([*command, *stages, "0.002", "--out", "second"]) == 0


RECIPE = PaperRecipe(
    size=32, batch_size=8, max_epochs=1, workers=0, device="cpu", validation_share=0.2
)


def _paper(folder, stages, **changes):
    start = changes.pop("start", None)
    stages = [PaperStage(PeopleFolder(each)) for each in stages]
    recipe = replace(RECIPE, **changes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paper, "export_identified", lambda *_, **__: None)
        return train_paper(stages, folder / "run.pt", start=start, recipe=recipe, progress=False)


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    """A folder with people, others, and a run on both."""
    folder = tmp_path_factory.mktemp("paper")
    stages = [make_people(folder / "people"), make_people(folder / "others", people=3, seed=1)]
    _paper(folder, stages)
    return folder, stages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "cosface"}, r"loss \(softmax there, cosface here\)"),
        ({"seed": 1}, "seed"),
        ({"rates": (0.01, 0.001)}, "rates"),
        ({"patience": 5}, "patience"),
        ({"dropout": 0.1}, "dropout"),
        ({"start": "plain"}, "start"),
        ({"network": "squeezefaceposenet+gdc"}, "network"),
        ({"validation_share": 0.4}, "images, people, crops or validation"),
    ],
)
def test_the_papers_protocol_refuses_checkpoints_of_another_run(two_stages, changes, message):
    folder, stages = two_stages
    files = {path: path.read_bytes() for path in folder.glob("run.*")}
    for given in (stages, stages[:1]):
        with pytest.raises(ValueError, match=f"must be of the same run; it is of .*{message}"):
            _paper(folder, given, **changes)
    assert {path: path.read_bytes() for path in folder.glob("run.*")} == files


def test_other_people_of_the_same_names_are_refused_before_any_stage(two_stages, tmp_path):
    folder, stages = two_stages
    people = make_people(tmp_path / "people", people=3)
    # Of other looks under the same names.
    (people / "p0").rename(people / "p")
    (people / "p1").rename(people / "p0")
    (people / "p").rename(people / "p1")
    (folder / "run.stage1.pt").rename(folder / "away.pt")
    with pytest.raises(ValueError, match=r"run\.stage2\.pt must be .* another images, people,"):
        _paper(folder, [stages[0], people])
    assert not (folder / "run.stage1.pt").exists()
    (folder / "away.pt").rename(folder / "run.stage1.pt")


def test_more_passes_are_for_the_last_stage_begun(two_stages):
    folder, stages = two_stages
    first = (folder / "run.stage1.pt").read_bytes()
    reports = _paper(folder, stages, max_epochs=2, workers=1, on_unreadable="leave out").stages
    assert [len(report.history) for report in reports] == [1, 2]
    assert [report.ended for report in reports] == ["epochs", "epochs"]
    assert (folder / "run.stage1.pt").read_bytes() == first
    (folder / "run.stage2.pt").unlink()
    reports = _paper(folder, stages[:1], max_epochs=2).stages
    assert [len(report.history) for report in reports] == [2]


def test_a_stage_on_another_first_stage_is_refused(two_stages, tmp_path):
    folder, stages = two_stages
    for name in ("run.stage1.pt", "run.stage2.pt"):
        (folder / name).unlink(missing_ok=True)
    _paper(folder, stages, max_epochs=2)
    (tmp_path / "other").mkdir()
    _paper(tmp_path / "other", stages[:1], max_epochs=1)
    (tmp_path / "other" / "run.stage1.pt").replace(folder / "run.stage1.pt")
    with pytest.raises(ValueError, match="another what the stage before ended with"):
        _paper(folder, stages, max_epochs=2)
