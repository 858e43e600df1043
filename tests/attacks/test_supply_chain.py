"""What ships is what was meant to ship, and says whose it is."""

import importlib.util
import zipfile
from pathlib import Path

import pytest

import sfpose
from sfpose.runtime.artifact import SHIPPED, read_artifact

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(sfpose.__file__).parent


def _script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pytestmark = pytest.mark.skipif(
    not (ROOT / ".ci").is_dir(), reason="the checks of a checkout are not in the sdist"
)


@pytest.fixture
def wheel(tmp_path):
    """The package as a wheel holds it, and a way to add something to it."""

    def build(*more, without=()):
        path = tmp_path / "sfpose-0.1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(PACKAGE.rglob("*")):
                name = f"sfpose/{file.relative_to(PACKAGE).as_posix()}"
                if file.is_file() and "__pycache__" not in file.parts and name not in without:
                    archive.write(file, name)
            archive.write(ROOT / "LICENSE", "sfpose-0.1.0.dist-info/licenses/LICENSE")
            for name, data in more:
                archive.writestr(name, data)
        return str(path)

    return build


def test_a_wheel_of_the_package_is_fine(wheel):
    assert _script("check_wheel").faults(wheel()) == []


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tests/test_x.py", b"", "outside of the package"),
        ("sfpose/tests/test_x.py", b"", "no part of the library"),
        ("sfpose/data/photo.jpg", b"", "of a kind that does not ship"),
        ("sfpose/kernel.so", b"", "of a kind that does not ship"),
        ("sfpose/weights/other/model.onnx", bytes(7_000_000), "has 7000000 bytes"),
        ("evil.pth", b"import os", "outside of the package"),
    ],
)
def test_what_does_not_belong_into_a_wheel_is_named(wheel, name, data, message):
    assert any(message in fault for fault in _script("check_wheel").faults(wheel((name, data))))


def test_what_is_missing_from_a_wheel_is_named(wheel):
    path = wheel(without={"sfpose/weights/default/model.onnx", "sfpose/py.typed"})
    assert _script("check_wheel").faults(path) == [
        "sfpose/py.typed is missing",
        "sfpose/weights/default/model.onnx is missing",
    ]


def test_every_licence_is_stated_and_permissive():
    pytest.importorskip("packaging", reason="it reads requirements")
    script = _script("licences")
    if not script.needed(set()):
        pytest.skip("sfpose is not installed, only on the path")
    found = {name: script.licence(package) for name, package in script.needed(set()).items()}
    assert {"numpy", "numba", "onnxruntime", "pillow", "scikit-learn", "tqdm"} <= set(found)
    assert [name for name, stated in found.items() if not script.PERMISSIVE.search(stated)] == []
    assert [name for name, stated in found.items() if script.COPYLEFT.search(stated)] == []
    assert script.COPYLEFT.search("LGPL-3.0-or-later")
    assert not script.PERMISSIVE.search("not stated")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_checked_at_load(name, tmp_path, monkeypatch):
    """A changed byte in the installed package is found, under the shipped name too."""
    import shutil

    weights = tmp_path / "weights"
    shutil.copytree(PACKAGE / "weights", weights)
    monkeypatch.setattr("sfpose.runtime.artifact.resources.files", lambda _: tmp_path)
    digest = read_artifact(name).digest
    assert len(digest) == 64
    data = bytearray((weights / name / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (weights / name / "model.onnx").write_bytes(data)
    with pytest.raises(ValueError, match="changed or damaged"):
        read_artifact(name)
