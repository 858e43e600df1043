"""The package as a whole: what importing it costs, who may import whom, what ships."""

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfpose
from sfpose.decision import shipped_conditions
from sfpose.runtime.artifact import SHIPPED, read_artifact, read_manifest

PACKAGE = Path(sfpose.__file__).parent

# Who may import whom, by first name below sfpose. Imports inside functions count too,
# except the ones listed as late.
ALLOWED = {
    "_checks": set(),
    "_estimators": set(),
    "_kernels": set(),
    "_sampling": set(),
    "_scoring": {"_checks", "_kernels"},
    "geometry": {"_checks"},
    "_colour": set(),
    "preprocessing": {"_checks", "_colour"},
    "_batches": {"_checks", "preprocessing"},
    "runtime": set(),
    "weights": set(),
    "metrics": {"_checks"},
    "networks": set(),
    "_search": {"_kernels", "_scoring"},
    "_gallery_files": {"_checks", "_scoring", "runtime"},
    "_gallery_rows": {"_gallery_files"},
    "gallery": {
        "_checks",
        "_gallery_files",
        "_gallery_rows",
        "_scoring",
        "decision",
        "_search",
        "runtime",
        "templates",
    },
    "distributed": {"_checks", "_scoring", "_search"},
    "templates": {"_checks", "_scoring"},
    "_descriptor_form": {"runtime"},
    "decision": {"_checks", "_descriptor_form", "runtime"},
    "_cohort": {"_scoring", "decision"},
    "_calibrated": {"_checks", "decision", "metrics", "runtime"},
    "_calibration": {
        "_calibrated",
        "_checks",
        "_cohort",
        "_scoring",
        "_template_pairs",
        "decision",
        "metrics",
    },
    "_template_pairs": {"_sampling", "templates"},
    "verifier": {
        *("_calibrated", "_calibration", "_checks", "_cohort", "_estimators", "_scoring"),
        *("decision", "templates"),
    },
    "protocols": {"_checks", "preprocessing", "runtime"},
    "_landmarks": {"_batches", "_checks", "geometry", "preprocessing", "runtime"},
    "_embedding": {
        "_batches",
        "_checks",
        "_landmarks",
        "_visibility",
        "geometry",
        "preprocessing",
        "runtime",
    },
    "pose": {"_checks"},
    "detectors": {"_checks"},
    "alignment": {
        "_batches",
        "_checks",
        "_embedding",
        "_estimators",
        "detectors",
        "geometry",
        "pose",
        "preprocessing",
    },
    "embedder": {"_checks", "_embedding", "_estimators", "alignment", "preprocessing", "runtime"},
    "training": {
        "_batches",
        "_checks",
        "_embedding",
        "alignment",
        "geometry",
        "networks",
        "pose",
        "preprocessing",
        "protocols",
        "runtime",
    },
    "_frames": {"_checks"},
    "_visibility": {"geometry", "preprocessing"},
    "video": {"_checks", "_frames", "alignment", "geometry", "pose"},
    "bundle": {
        "_checks",
        "_embedding",
        "decision",
        "_calibrated",
        "_cohort",
        "_gallery_files",
        "embedder",
        "gallery",
        "runtime",
        "verifier",
    },
    "studies": {"_checks", "_scoring", "evaluation", "protocols"},
    "comparisons": {"protocols"},
    "reproduction": {"pose", "comparisons", "_scoring", "evaluation", "metrics", "protocols"},
    "error_table": {"metrics", "protocols"},
    "evaluation": {
        *(
            "_calibrated",
            "_calibration",
            "comparisons",
            "_scoring",
            "embedder",
            "error_table",
            "metrics",
            "pose",
            "protocols",
        ),
        "runtime",
    },
}
LATE = {("embedder", "training")}
HEAVY = {"torch", "onnx", "onnxruntime", "numba", "matplotlib"}


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], path


def _imports(tree, inside_functions):
    """Names of imported modules at the top of a module, or anywhere in it."""
    for node in ast.walk(tree) if inside_functions else _top(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _top(body):
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node


@pytest.mark.parametrize(
    ("home", "path"), list(_modules()), ids=lambda v: v if isinstance(v, str) else v.stem
)
def test_arrows_go_one_way(home, path):
    if home in ("__init__", "__main__", "cli"):
        return
    tree = ast.parse(path.read_text())
    for name in _imports(tree, inside_functions=True):
        parts = name.split(".")
        if parts[0] == "sfpose" and len(parts) > 1 and parts[1] != home:
            late = (home, parts[1]) in LATE and name not in _imports(tree, False)
            assert parts[1] in ALLOWED[home] or late, f"{home} imports {name}"


@pytest.mark.parametrize(
    ("home", "path"), list(_modules()), ids=lambda v: v if isinstance(v, str) else v.stem
)
def test_nothing_heavy_is_imported_before_it_is_used(home, path):
    if home in ("networks", "training", "_kernels"):
        return
    heavy = {name.split(".")[0] for name in _imports(ast.parse(path.read_text()), False)} & HEAVY
    assert not heavy


def _public_signatures(tree):
    """Names and annotations of functions and methods that a module lists."""
    listed = next((ast.literal_eval(n.value) for n in tree.body if _is_all(n)), [])
    for node in tree.body:
        if getattr(node, "name", None) not in listed:
            continue
        functions = node.body if isinstance(node, ast.ClassDef) else [node]
        for function in functions:
            name = getattr(function, "name", "_")
            if isinstance(function, ast.FunctionDef) and not name.startswith("_"):
                every = ast.unparse(function.args) + ast.unparse(function.returns)
                yield f"{node.name}.{name}", every


def _is_all(node):
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"


def test_no_public_signature_says_any():
    """But for the precision of numbers, as in ``np.floating[Any]``."""
    found = []
    for home, path in _modules():
        if home.startswith("_") or home in ("cli", "training"):
            continue
        for name, every in _public_signatures(ast.parse(path.read_text())):
            if re.search(r"\bAny\b", every.replace("floating[Any]", "")):
                found.append(f"{path.name}: {name}")
    assert found == []


def test_modules_can_be_read_in_one_sitting():
    long = {path.name: len(path.read_text().splitlines()) for _, path in _modules()}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def _run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_loads_nothing_heavy():
    loaded = _run("import sys, sfpose; print(*sorted({m.split('.')[0] for m in sys.modules}))")
    assert not {*HEAVY, "sklearn", "scipy", "PIL", "pandas"} & set(loaded.split())


def test_import_takes_under_three_tenths_of_a_second():
    def seconds(code):
        start = time.perf_counter()
        _run(code)
        return time.perf_counter() - start

    extra = sorted(seconds("import numpy, sfpose") - seconds("import numpy") for _ in range(5))
    assert extra[2] < 0.3


def test_one_decision_needs_neither_numba_nor_torch(portrait, tmp_path):
    np.save(tmp_path / "face.npy", portrait)
    loaded = _run(
        "import sys, numpy as np; from sfpose import FaceEmbedder, TemplateVerifier;"
        f"d = FaceEmbedder().transform([np.load({str(tmp_path / 'face.npy')!r})] * 2);"
        "TemplateVerifier().verify(d[0], d[1]);"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    assert not {"numba", "torch", "onnx", "matplotlib"} & set(loaded.split())


@pytest.mark.parametrize("command", ["verify a.png a.png", "export --target ort --out net"])
def test_onnxruntime_keeps_no_record_of_what_was_run(command, portrait, tmp_path):
    """Since 1.29 it writes events and an id into the home directory, to be sent to its makers."""
    Image.fromarray(portrait).save(tmp_path / "a.png")
    home = tmp_path / "home"
    home.mkdir()
    # It is silent where a build server's variable is set too.
    unset = ("CI", "ORT_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-m", "sfpose", *command.split()],
        cwd=tmp_path,
        env={**environment, "HOME": str(home)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert list(home.iterdir()) == []


def test_first_decision_comes_within_two_seconds(portrait, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(portrait).save(tmp_path / name)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-m", "sfpose", "verify", "a.png", "b.png"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert min(times) < 2.0


def test_every_public_name_is_there():
    for name in sfpose.__all__:
        assert getattr(sfpose, name) is not None
        assert name in dir(sfpose)
    with pytest.raises(AttributeError, match="has no attribute 'FaceDetector'"):
        sfpose.FaceDetector  # noqa: B018


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_whole_and_has_a_card(name):
    assert len(read_artifact(name).model) == read_manifest(name)["files"]["model.onnx"]["bytes"]
    card = (PACKAGE / "weights" / name / "card.md").read_text()
    for word in ("Data", "Licence", "Command", "Limits"):
        assert f"## {word}" in card
    assert read_artifact(name).digest[:16] in card


def test_shipped_calibration_is_complete():
    manifest = read_manifest("default")
    conditions = shipped_conditions(manifest)
    poses = [None, ("frontal", "frontal"), ("frontal", "profile"), ("profile", "profile")]
    assert [c.poses for c in conditions if c[:2] == (1, 1)] == poses
    for condition, entry in conditions.items():
        assert entry["log_likelihood_ratio"]["slope"] < 0
        for stated in entry["thresholds"]:
            assert stated["achieved_fmr"] <= stated["target_fmr"]
            assert stated["people"] == 100
            if condition[:2] == (1, 1):
                low, high = stated["fmr_interval"]
                assert low <= stated["achieved_fmr"] <= high
    assert manifest["distance"]["factor"] == 1.0
