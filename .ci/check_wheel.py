"""Refuse a wheel that holds more or less than the library.

python .ci/check_wheel.py dist/sfpose-*.whl
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import PurePosixPath

LARGEST_WHEEL = 11_500_000
LARGEST_FILE = 6_000_000
ENDINGS = {".py", ".onnx", ".json", ".md", ".typed"}
NEEDED = {
    "sfpose/__init__.py",
    "sfpose/py.typed",
    *(
        f"sfpose/weights/{name}/{file}"
        for name in ("default", "small", "plain", "plain-int8", "landmarks")
        for file in ("model.onnx", "manifest.json", "card.md")
    ),
}


def faults(path: str) -> list[str]:
    """What is wrong with a wheel, one line each."""
    found = []
    with zipfile.ZipFile(path) as wheel:
        entries = wheel.infolist()
    names = {entry.filename for entry in entries}
    for entry in entries:
        name = PurePosixPath(entry.filename)
        home = name.parts[0]
        if home != "sfpose" and not home.endswith(".dist-info"):
            found.append(f"{name} lies outside of the package")
        if home == "sfpose" and name.suffix not in ENDINGS:
            found.append(f"{name} is of a kind that does not ship")
        if any(part in {"tests", "data", "examples", "__pycache__"} for part in name.parts):
            found.append(f"{name} is no part of the library")
        if entry.file_size > LARGEST_FILE:
            found.append(f"{name} has {entry.file_size} bytes")
    found += [f"{name} is missing" for name in sorted(NEEDED - names)]
    if sum(entry.compress_size for entry in entries) > LARGEST_WHEEL:
        found.append(f"the wheel has more than {LARGEST_WHEEL} bytes")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        found.append("the licence is missing")
    if "-py3-none-any.whl" not in path:
        found.append("the wheel needs a compiler or a platform")
    return found


if __name__ == "__main__":
    faulty = faults(sys.argv[1])
    print("\n".join(faulty) or f"{sys.argv[1]}: nothing but the library")
    sys.exit(bool(faulty))
