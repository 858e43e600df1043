"""``sfpose train``: the shipped weights' runs, and beside them the paper's recipe."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from sfpose.cli import train_paper
from sfpose.cli.arguments import people_range, to_path
from sfpose.cli.training import RESUME, add_run, add_start, checkpoint_of

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    import torch

    from sfpose.training.faces import TaughtFaces
    from sfpose.training.mixing import Blends
    from sfpose.training.recipes import DistillationRecipe
    from sfpose.training.settings import LoopSettings
    from sfpose.training.teachers import Teacher


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "train",
        help='train weights (needs pip install "sfpose[train]")',
        description=f"Train weights. {RESUME}",
    )
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    train_paper.add_parser(kinds)
    _add_landmark_options(_add_taught(kinds, "landmarks", "Train the landmark network"))
    _add_distil_options(_add_taught(kinds, "distil", "Distil the descriptor network"))


def _add_taught(
    kinds: _SubParsersAction[argparse.ArgumentParser], what: str, description: str
) -> argparse.ArgumentParser:
    """A subcommand with what both runs on stored teacher outputs have in common."""
    parser = kinds.add_parser(
        what,
        help=f"{description[0].lower()}{description[1:]} from stored teacher outputs",
        description=f"{description} from stored teacher outputs. {RESUME}",
    )
    parser.add_argument(
        "data", type=to_path, help="folder with fairface_128_*.zip and fairface_teacher.npz"
    )
    add_run(parser)
    parser.add_argument("--cache", type=to_path, default=Path(".cache/sfpose"))
    parser.add_argument(
        "--stages",
        nargs="+",
        type=_size_and_images,
        metavar="SIZE:IMAGES",
        help="instead of the recipe's stages, so many images of these sizes; needs --rate",
    )
    parser.add_argument(
        "--rate",
        nargs="+",
        type=float,
        help="learning rate at the first image of --stages, or of each, falling to zero in the end",
    )
    parser.add_argument("--batch-size", type=int, help="images a step (default: the recipe's)")
    parser.add_argument("--seed", type=int, help="(default: the recipe's)")
    parser.add_argument("--device", default="auto", help="(default: auto, CUDA where there is one)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first, for long runs on a GPU; needs a compiler",
    )
    parser.add_argument(
        "--face-surface",
        type=to_path,
        metavar="FILE",
        help=".safetensors with the vertices and triangles of a generic face, by which some "
        "faces are turned to the side",
    )
    return parser


def _add_landmark_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_landmarks)
    parser.add_argument(
        "--start",
        help="landmarks to go on from: a shipped name or an artifact; random weights if none",
    )
    parser.add_argument(
        "--only-score",
        action="store_true",
        help="teach nothing but the face score; landmarks stay those of --start",
    )


def _add_distil_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_run_distil)
    add_start(parser, several=True)
    parser.add_argument("--landmarks", default="landmarks", help="landmark artifact to align by")
    parser.add_argument(
        "--teacher",
        type=to_path,
        metavar="ONNX",
        help="the network that gave the stored embeddings, to ask about --zooms, --mixed or "
        "--surrounded",
    )
    parser.add_argument(
        "--zooms",
        nargs="+",
        type=float,
        default=(),
        metavar="ZOOM",
        help="ask --teacher about each photo in crops of so many times the usual side too, and "
        "teach the mean (default: teach what is stored)",
    )
    parser.add_argument(
        "--mixed",
        type=int,
        default=0,
        metavar="N",
        help="ask --teacher about so many blends of two faces, and show them too (default: none)",
    )
    parser.add_argument(
        "--mixed-from",
        type=float,
        metavar="DEGREES",
        help="blend heads alone that are turned to the side by so much or more (default: 0)",
    )
    parser.add_argument(
        "--surrounded",
        type=int,
        default=0,
        metavar="N",
        help="ask --teacher about so many faces, what their photos lack taken from others that are "
        "turned alike, and show them among the blends (default: none)",
    )
    parser.add_argument(
        "--mixed-seed",
        type=int,
        metavar="N",
        help="draw other faces for --mixed and --surrounded than another number does (default: 0)",
    )
    parser.add_argument(
        "--mixed-share",
        type=float,
        metavar="SHARE",
        help="of the images shown, those that are blends or surrounded (default: the recipe's)",
    )
    parser.add_argument(
        "--calibrate-on", type=to_path, metavar="CFP", help="CFP folder or zip for the threshold"
    )
    parser.add_argument(
        "--calibrate-people", type=people_range, metavar="FIRST-LAST", help="(default: 1-100)"
    )
    parser.add_argument(
        "--scale", type=float, help="multiply the images of every stage of the recipe"
    )
    parser.add_argument(
        "--turned",
        type=float,
        metavar="SHARE",
        help="of the frontal faces, those that --face-surface turns (default: the recipe's)",
    )
    parser.add_argument(
        "--jitter",
        type=float,
        metavar="STRENGTH",
        help="of moves of the crop about its aligned place (default: the recipe's)",
    )
    parser.add_argument(
        "--light",
        type=float,
        metavar="STRENGTH",
        help="of changes of light, colour and sharpness (default: the recipe's)",
    )
    parser.add_argument(
        "--freeze",
        nargs="+",
        default=(),
        metavar="MODULE",
        help="modules that keep the weights of --start, such as conv1 fire2 (default: none)",
    )
    parser.add_argument(
        "--spread",
        action="store_true",
        help="begin the values of --start anew, spread evenly over what the teacher tells apart, "
        "and teach them to stay so (networks without a map)",
    )


def _size_and_images(text: str) -> tuple[int, int]:
    try:
        size, images = (int(part) for part in text.split(":"))
    except ValueError:
        size = images = 0
    if size < 1 or images < 1:
        raise argparse.ArgumentTypeError(f"must be SIZE:IMAGES, such as 64:200000; got {text!r}")
    return size, images


def _loop_settings(settings: LoopSettings, options: argparse.Namespace) -> LoopSettings:
    """The settings, with what the options say in the place of theirs."""
    from sfpose.training.settings import falling_stages

    if (options.stages is None) != (options.rate is None):
        raise ValueError("--stages and --rate go together; got one of them")
    if options.batch_size is not None and options.batch_size < 2:
        raise ValueError(f"--batch-size must be at least 2; got {options.batch_size}")
    settings = replace(settings, device=options.device, compiled=options.compile)
    if options.seed is not None:
        settings = replace(settings, seed=options.seed)
    if options.stages is not None:
        settings = falling_stages(settings, options.stages, options.rate)
    if options.batch_size is not None:
        stages = (replace(stage, batch_size=options.batch_size) for stage in settings.stages)
        settings = replace(settings, stages=tuple(stages))
    return settings


def _run_landmarks(options: argparse.Namespace) -> int:
    """Train the landmark network and say where the artifact is."""
    if options.only_score and options.start is None:
        raise ValueError("--only-score must be given with --start; got no --start")
    checkpoint = checkpoint_of(options)
    from sfpose.runtime.artifact import write_artifact
    from sfpose.training.faces import load_taught_faces
    from sfpose.training.landmarks import LANDMARK_LOOP, train_landmarks

    settings = _loop_settings(LANDMARK_LOOP, options)
    faces = load_taught_faces(options.data, options.cache)
    artifact = train_landmarks(
        faces,
        checkpoint,
        start=options.start,
        face_surface=options.face_surface,
        only_score=options.only_score,
        settings=settings,
        stop_after_minutes=options.minutes,
    )
    path = write_artifact(
        options.out, artifact.model, artifact.manifest, overwrite=options.overwrite
    )
    print(f"wrote {path}")
    return 0


def _asked_blends(
    options: argparse.Namespace,
    faces: TaughtFaces,
    teacher: Teacher,
    said: Path,
    device: torch.device,
) -> Blends | None:
    """All blends that the options ask for, with what the teacher says of each."""
    from sfpose.training.mixing import joined, make_blends
    from sfpose.training.surroundings import make_surrounded

    turned_alike = partial(make_blends, least_yaw=options.mixed_from or 0.0)
    parts = [
        make(faces, teacher, count, said, seed=options.mixed_seed or 0, device=device)
        for make, count in ((turned_alike, options.mixed), (make_surrounded, options.surrounded))
        if count
    ]
    return joined(parts) if parts else None


def _check_distil(options: argparse.Namespace) -> None:
    """Refuse options that would do nothing."""
    for name in ("mixed", "surrounded", "mixed_seed"):
        if (given := getattr(options, name) or 0) < 0:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 0; got {given}")
    asked = bool(options.zooms or options.mixed or options.surrounded)
    if (options.teacher is not None) != asked:
        raise ValueError(
            "--teacher must be given with --zooms, --mixed or --surrounded, as they with it; got "
            + ("no --teacher" if options.teacher is None else "--teacher alone")
        )
    if not options.mixed and options.mixed_from is not None:
        raise ValueError("--mixed-from must be given with --mixed; got no --mixed")
    for name in ("mixed_seed", "mixed_share"):
        if not (options.mixed or options.surrounded) and getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} must be given with --mixed or --surrounded; got neither")
    if options.turned is not None and options.face_surface is None:
        raise ValueError("--turned must be given with --face-surface; got no --face-surface")
    if options.calibrate_people is not None and options.calibrate_on is None:
        raise ValueError(
            "--calibrate-people must be given with --calibrate-on; got no --calibrate-on"
        )
    if options.scale is not None and options.stages is not None:
        raise ValueError("--scale must be given without --stages, which say how many; got both")
    if options.scale is not None and not 0 < options.scale < math.inf:
        raise ValueError(f"--scale must be above 0 and finite; got {options.scale}")


def _recipe(options: argparse.Namespace) -> DistillationRecipe:
    """The shipped recipe, with what the options say in the place of its own."""
    from sfpose.training.recipes import DistillationRecipe, shorter

    recipe = DistillationRecipe()
    if options.scale is not None:
        recipe = shorter(recipe, options.scale)
    recipe = replace(
        recipe,
        network=options.network,
        loop=_loop_settings(recipe.loop, options),
        frozen=tuple(options.freeze),
        spread=options.spread,
    )
    own = {
        "turned_share": options.turned,
        "blend_share": options.mixed_share,
        "jitter": options.jitter,
        "light": options.light,
    }
    return replace(recipe, **{name: value for name, value in own.items() if value is not None})


def _run_distil(options: argparse.Namespace) -> int:
    """Distil the descriptor network, calibrate it and say where the artifact is."""
    _check_distil(options)
    checkpoint = checkpoint_of(options)
    from sfpose.evaluation import calibrated
    from sfpose.protocols import CFP
    from sfpose.runtime.artifact import write_artifact
    from sfpose.training.asking import ask_at_zooms
    from sfpose.training.faces import load_taught_faces
    from sfpose.training.landmarks import find_own_landmarks
    from sfpose.training.recipes import distil
    from sfpose.training.settings import find_device
    from sfpose.training.teachers import OnnxTeacher

    recipe = _recipe(options)
    photos = None
    if options.calibrate_on is not None:
        photos = CFP(options.calibrate_on, people=options.calibrate_people or range(1, 101))
    faces = load_taught_faces(options.data, options.cache)
    landmarks = find_own_landmarks(faces, options.landmarks, options.cache)
    blends = None
    if options.teacher is not None:
        device = find_device(options.device)
        teacher = OnnxTeacher(options.teacher).to(device)
        # Another teacher says other things of the same crops.
        said = options.cache / f"teacher_{sha256(options.teacher.read_bytes()).hexdigest()[:16]}"
        if options.zooms:
            faces = ask_at_zooms(faces, landmarks, teacher, options.zooms, said, device=device)
        blends = _asked_blends(options, replace(faces, landmarks=landmarks), teacher, said, device)
    artifact, agreement = distil(
        faces,
        checkpoint,
        landmarks=landmarks,
        blends=blends,
        start=options.start,
        recipe=recipe,
        face_surface=options.face_surface,
        name=options.out.name,
        stop_after_minutes=options.minutes,
    )
    if photos is not None:
        artifact = calibrated(artifact, photos)
    path = write_artifact(
        options.out, artifact.model, artifact.manifest, overwrite=options.overwrite
    )
    print(
        f"cosine to the teacher: {agreement['training']:.3f} on training photos, "
        f"{agreement['held_out']:.3f} on photos held out\nwrote {path}"
    )
    return 0
