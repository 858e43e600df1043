"""List the licences stated by everything that a requirement brings with it.

    python .ci/licences.py              # what pip install sfpose brings
    python .ci/licences.py train demo   # with these extras

Exit code 1 if a package states no licence, or none of those that are let through below.

It reads what packages state of themselves, not what their wheels bundle: those of av, which
states BSD-3-Clause, hold x264 and x265, which are under the GPL. docs/deployment.md says more.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

# The MPL, of tqdm, is no permissive licence, but let through: it asks for the source of changed
# files of what is under it, and for nothing of what is used beside them.
PERMISSIVE = re.compile(
    r"\b(BSD|MIT|MIT-CMU|HPND|Apache|ISC|PSF|PSF-2\.0|Python Software Foundation|Zlib|0BSD"
    r"|Unlicense|CC0|MPL|Mozilla Public License|Boost|BSL|LLVM)\b",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"\b([AL]?GPL|GNU)", re.IGNORECASE)


def licence(package: Distribution) -> str:
    """What a distribution states: expression, classifiers, or the start of the text."""
    data = package.metadata
    stated = data.get("License-Expression") or ""
    if not stated:
        classes = data.get_all("Classifier") or []
        stated = ", ".join(c.split("::")[-1].strip() for c in classes if c.startswith("License"))
    if not stated:
        stated = (data.get("License") or "").strip().split("\n")[0][:60]
    return stated or "not stated"


def needed(extras: set[str]) -> dict[str, Distribution]:
    """Everything that is installed because sfpose with some extras asks for it."""
    found: dict[str, Distribution] = {}
    waiting = [("sfpose", extras)]
    while waiting:
        name, wanted = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform or Python
        if key in found and not wanted:
            continue
        found[key] = package
        for line in package.requires or []:
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in wanted or {""}]
            marker = requirement.marker
            if marker is None or any(marker.evaluate(each) for each in environments):
                own = re.sub(r"[-_.]+", "-", requirement.name).lower()
                if own not in found or requirement.extras - wanted:
                    waiting.append((requirement.name, set(requirement.extras)))
    return found


if __name__ == "__main__":
    odd = []
    for key, package in sorted(needed(set(sys.argv[1:])).items()):
        stated = licence(package)
        print(f"{key} {package.version}: {stated}")
        if not PERMISSIVE.search(stated) or COPYLEFT.search(stated):
            odd.append(key)
    if odd:
        print(f"neither permissive nor MPL, as far as stated: {', '.join(odd)}", file=sys.stderr)
    sys.exit(bool(odd))
