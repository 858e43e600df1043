"""Every Python snippet of the README and the documentation runs."""

import re
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
    names = {"__name__": "__main__"}
    for snippet in _snippets(page):
        exec(compile(snippet, page.name, "exec"), names)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]]
    assert [page for page in pages if page not in navigation] == []


def test_examples_run(tmp_path):
    pytest.importorskip("skimage", reason="examples use portraits of scikit-image")
    import runpy

    for example in sorted((ROOT / "examples").glob("*.py")):
        runpy.run_path(str(example), run_name="__main__")
