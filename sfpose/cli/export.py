"""``sfpose export --target onnx|ort|mean|int8|mirrored``: for other runtimes, or an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfpose.cli.arguments import check_new, to_path
from sfpose.cli.output import print_json

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sfpose.runtime.artifact import Artifact


_ARTIFACTS = ("mean", "int8", "mirrored")
# With fewer, more values of other photos lie outside of the ranges and are cut off.
_RANGE_IMAGES = 1000


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "export",
        help="write the network alone, for phones, browsers and other runtimes",
        description="Write the network of an artifact as a file of its own: onnx for any ONNX "
        "runtime, ort for onnxruntime's builds for phones. Prints how to feed it. int8 writes an "
        "artifact of eight-bit weights and activations instead, mirrored one whose descriptors "
        "are the mean of an image and its mirror image, at twice the time, and mean one whose "
        "weights are the mean of those of several runs that went on from the same; all of them "
        "without thresholds: run 'sfpose calibrate' on them (needs sfpose[train]).",
    )
    parser.add_argument("--target", choices=("onnx", "ort", *_ARTIFACTS), default="onnx")
    parser.add_argument(
        "--out", type=to_path, required=True, help="file, or for an artifact folder, to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace it")
    parser.add_argument(
        "--images",
        metavar="PATH",
        help="folder or zip of loose crops of faces that int8 takes the range of activations "
        "from; up to 1000 are used",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        action="extend",
        help="shipped name or path of an artifact; of several for mean (default: default)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the file and say what it takes and gives."""
    from sfpose.runtime.artifact import read_artifact
    from sfpose.runtime.files import whole_file
    from sfpose.runtime.inspection import check_network
    from sfpose.runtime.replacing import saying

    out: Path = options.out
    place = check_new(out, options.overwrite, artifact=options.target in _ARTIFACTS)
    if (options.target == "int8") != (options.images is not None):
        raise ValueError(
            "int8 needs --images, a folder or zip of loose crops of faces, and nothing else does; "
            f"got {options.target} with{'' if options.images else 'out'} --images"
        )
    weights = options.weights or ["default"]
    if options.target != "mean" and len(weights) != 1:
        raise ValueError(f"--weights must be one for {options.target}; got {len(weights)}")
    artifacts = [read_artifact(each) for each in weights]
    if options.target in _ARTIFACTS:
        return _write_artifact(artifacts, options)
    (artifact,) = artifacts
    # All is checked before anything is replaced.
    check_network(artifact.model)
    fed = artifact.network_input
    settings: Any = artifact.section("input")
    with whole_file(place) as part:
        if options.target == "onnx":
            with saying(out):
                part.write_bytes(artifact.model)
        else:
            _write_ort(artifact.model, part, out)
        size = part.stat().st_size
    told = {
        "out": str(out),
        "bytes": size,
        "input": {"shape": ["n", 3, fed.size, fed.size], **settings},
        "descriptor": artifact.manifest.get("descriptor"),
        "distance": artifact.manifest.get("distance"),
    }
    if options.json:
        print_json(told)
    else:
        print(
            f"wrote {out}, {size:,} bytes: float32 (n, 3, {fed.size}, {fed.size}) RGB, "
            f"values 0 to 1 less {list(fed.mean)} over {list(fed.std)}"
        )
    return 0


def _write_ort(model: bytes, path: Path, out: Path) -> None:
    from sfpose.runtime.session import load_onnxruntime

    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # More than basic optimisation would tie the file to this processor.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    # What was checked is ONNX; onnxruntime would take its own format too.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors have no other class in common
        raise OSError(f"{str(out)!r} cannot be written: {error}") from error


def _write_artifact(artifacts: list[Artifact], options: argparse.Namespace) -> int:
    from sfpose.runtime.artifact import write_artifact
    from sfpose.training.averaging import mean_of_weights
    from sfpose.training.mirroring import mirrored

    artifact = artifacts[0]
    if options.target == "mean":
        made = mean_of_weights(artifacts)
    elif options.target == "mirrored":
        made = mirrored(artifact)
    else:
        made = _of_eight_bits(artifact, options)
    path = write_artifact(options.out, made.model, made.manifest, overwrite=options.overwrite)
    told = {"out": str(path), "bytes": len(made.model), "bytes_before": len(artifact.model)}
    if options.json:
        print_json(told)
    else:
        print(f"wrote {path}: {len(made.model):,} bytes, {len(artifact.model):,} before")
    return 0


def _of_eight_bits(artifact: Artifact, options: argparse.Namespace) -> Artifact:
    from sfpose.protocols import ImageFiles, LazyImages
    from sfpose.training.quantization import quantize

    files = ImageFiles(options.images)
    names = files.images()
    step = max(1, len(names) // _RANGE_IMAGES)
    return quantize(artifact, LazyImages(files, names[::step][:_RANGE_IMAGES]), n_jobs=-1)
