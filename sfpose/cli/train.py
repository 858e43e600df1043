"""``sfpose train``: the runs behind the shipped weights, from nothing or going on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "train",
        help='train weights (needs pip install "sfpose[train]")',
        description="Train the landmark network or distil the descriptor network from stored "
        "teacher outputs. DATA is a folder with fairface_128_*.zip and fairface_teacher.npz. "
        "A run that was stopped goes on from its checkpoint when it is called again.",
    )
    parser.add_argument("what", choices=("landmarks", "distil"))
    parser.add_argument("data", type=Path, help="folder with photos and teacher outputs")
    parser.add_argument("--out", type=Path, required=True, help="artifact folder to write")
    parser.add_argument(
        "--start",
        help="what to start from: a shipped name, an artifact, or a SqueezeNet v1.1 state "
        "(.safetensors or .pth); random weights if not given (distil only)",
    )
    parser.add_argument(
        "--landmarks", default="landmarks", help="landmark artifact to align by (distil only)"
    )
    parser.add_argument(
        "--calibrate-on", type=Path, metavar="CFP", help="CFP folder or zip for the threshold"
    )
    parser.add_argument(
        "--calibrate-people", default="1-100", metavar="FIRST-LAST", help="(default: 1-100)"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache/sfpose"))
    parser.add_argument("--checkpoint", type=Path, help="(default: runs/WHAT.pt)")
    parser.add_argument("--minutes", type=float, help="stop after this time, finished or not")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply the images of every stage (distil only)"
    )
    parser.add_argument(
        "--one-stage",
        nargs=3,
        metavar=("SIZE", "IMAGES", "RATE"),
        help="instead of the recipe's stages, so many images of this size at a learning rate "
        "that falls from RATE to zero; what goes on from shipped weights (distil only)",
    )
    parser.add_argument(
        "--face-surface",
        type=Path,
        metavar="FILE",
        help=".safetensors with the vertices and triangles of a generic face, by which some "
        "faces are turned to the side (distil only)",
    )
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, export and say where the artifact is."""
    try:
        import torch
    except ImportError as error:
        raise ImportError('training needs torch: pip install "sfpose[train]"') from error
    from sfpose.runtime.artifact import write_artifact
    from sfpose.training.faces import load_taught_faces

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    checkpoint = options.checkpoint or Path("runs") / f"{options.what}.pt"
    faces = load_taught_faces(options.data, options.cache)
    if options.what == "landmarks":
        from sfpose.training.landmarks import train_landmarks

        artifact = train_landmarks(faces, checkpoint, stop_after_minutes=options.minutes)
    else:
        from sfpose.cli.evaluate import people_range
        from sfpose.evaluation import calibrated
        from sfpose.protocols import CFP
        from sfpose.training import recipes

        recipe = recipes.shorter(recipes.DistillationRecipe(), options.scale)
        if options.one_stage is not None:
            size, images, rate = options.one_stage
            recipe = recipes.one_stage(recipe, int(size), int(images), float(rate))
        landmarks = recipes.find_own_landmarks(faces, options.landmarks, options.cache)
        artifact = recipes.distil(
            faces,
            checkpoint,
            landmarks=landmarks,
            start=options.start,
            recipe=recipe,
            face_surface=options.face_surface,
            stop_after_minutes=options.minutes,
        )
        if options.calibrate_on is not None:
            people = people_range(options.calibrate_people)
            artifact = calibrated(artifact, CFP(options.calibrate_on, people=people))
    path = write_artifact(options.out, artifact.model, artifact.manifest, overwrite=True)
    print(f"wrote {path}")
    return 0
