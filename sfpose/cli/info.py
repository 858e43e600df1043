"""``sfpose info``: versions, weights and their calibration, or who is in a gallery."""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import sfpose
from sfpose._checks import LEAST_PEOPLE, RULE_OF_3, is_number, little_evidence
from sfpose.cli.arguments import to_path
from sfpose.cli.galleries import read_people
from sfpose.cli.output import print_json, shown

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sfpose.decision import Condition
    from sfpose.runtime.artifact import Json, Manifest

_PACKAGES = ("numpy", "numba", "scikit-learn", "onnxruntime", "Pillow", "torch")


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "info",
        help="show versions, weights and calibration, or a gallery",
        description="Show versions, weights and their calibration. With a gallery, show how many "
        "people are enrolled in it, and of which network, instead.",
    )
    parser.add_argument(
        "gallery",
        type=to_path,
        nargs="?",
        help="folder that enrol made, or a bundle that holds people",
    )
    parser.add_argument(
        "--ids", action="store_true", help="list who is enrolled, and from how many photos"
    )
    parser.add_argument("--weights", help="shipped name or path of an artifact (default: default)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _stated(table: Mapping[str, Any], name: str) -> str:
    return shown(table.get(name) or "not stated")


def _share(stated: Mapping[str, Any]) -> str:
    """A false non-match rate, as far as a manifest states one."""
    rate = stated.get("fnmr")
    return f"{rate:.3f}" if is_number(rate) else "not stated"


def _note(stated: Mapping[str, Any]) -> str:
    """On how little a threshold rests, behind the mark of it; empty if that is enough."""
    from sfpose.metrics.thresholds import RULE_OF_30, rests_on_few

    rate = stated["target_fmr"]
    if little_evidence(rate, stated.get("impostor_pairs"), stated.get("people", 0)):
        return (
            f"! fewer than {LEAST_PEOPLE} people, or than {RULE_OF_3} expected false matches: "
            "decisions state no rate"
        )
    if rests_on_few(rate, stated.get("impostor_pairs", 0)):
        return f"* fewer than {RULE_OF_30} false matches are expected: the true rate may be far off"
    return ""


def _calibration(manifest: Manifest) -> tuple[Manifest, dict[Condition, dict[str, Json]]]:
    """The table that states a calibration, and its conditions."""
    from sfpose.decision import shipped_conditions

    bundle = manifest.get("bundle")
    if isinstance(bundle, dict) and "cohort" in bundle:
        return bundle, shipped_conditions(bundle, least=-math.inf)
    return manifest, shipped_conditions(manifest)


def run(options: argparse.Namespace) -> int:
    """Print the information."""
    from sfpose.runtime.artifact import read_artifact

    if options.gallery is not None:
        return _tell_gallery(options)
    if options.ids:
        raise ValueError("--ids needs a gallery; got none")
    artifact = read_artifact("default" if options.weights is None else options.weights)
    stated, conditions = _calibration(artifact.manifest)
    information: dict[str, Any] = {
        "sfpose": sfpose.__version__,
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "weights": dict(artifact.manifest),
        "sha256": artifact.digest,
        "manifest_sha256": artifact.manifest_digest,
    }
    if options.json:
        print_json(information, indent=1)
        return 0
    print(f"sfpose {sfpose.__version__}, Python {platform.python_version()}")
    print(", ".join(f"{name} {number}" for name, number in information["packages"].items()))
    manifest = artifact.manifest
    print(
        f"weights {_stated(manifest, 'name')}: {_stated(manifest, 'network')}, "
        f"{len(artifact.model):,} bytes, licence {_stated(manifest, 'license')}"
    )
    print(f"  sha256 of the network:  {artifact.digest}")
    print(f"  sha256 of the manifest: {artifact.manifest_digest}")
    calibration: Any = stated.get("calibration")
    if calibration:
        print(f"calibrated on {_stated(calibration, 'data')}:")
        print("  thresholds (false non-match rate) at target false match rates")
        if stated is not manifest:
            print("  of distances normalised by the bundle's cohort")
        notes: set[str] = set()
        for condition, entry in conditions.items():
            told = []
            thresholds: Any = entry["thresholds"]
            for each in thresholds:
                note = _note(each)
                notes.add(note)
                mark, share = note[:1], _share(each)
                told.append(f"{each['target_fmr']:g}: {each['threshold']:.4f}{mark} ({share})")
            print(f"  {shown(condition)}: {', '.join(told)}")
        for note in sorted(notes - {""}):
            print(f"  {note}")
    return 0


def _tell_gallery(options: argparse.Namespace) -> int:
    """Print who is in a gallery."""
    if options.weights is not None:
        raise ValueError("--weights must be left out where a gallery is given; got both")
    gallery = read_people(options.gallery)
    photos = gallery.counts.tolist()
    network = gallery._network
    if options.json:
        told: dict[str, Any] = {
            "gallery": str(options.gallery),
            "people": len(gallery),
            "photos": sum(photos),
            "network": network,
        }
        print_json({**told, "ids": list(gallery), "counts": photos} if options.ids else told)
        return 0
    source = "an unknown network" if network is None else f"the network {network[:16]}..."
    print(
        f"{shown(options.gallery)}: {len(gallery)} people from {sum(photos)} photos, embedded by "
        f"{source}"
    )
    if options.ids:
        for name, count in zip(gallery, photos, strict=True):
            print(f"{shown(name)}: {count} photos")
    return 0
