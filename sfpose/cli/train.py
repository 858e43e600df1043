"""``sfpose train``: the paper's recipe on labelled people, and the shipped weights' runs."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sfpose.training.paper import PaperRecipe, StageReport
    from sfpose.training.settings import LoopSettings

RESUME = "A run that was stopped goes on from its checkpoint when it is called again."


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "train",
        help='train weights (needs pip install "sfpose[train]")',
        description=f"Train weights. {RESUME}",
    )
    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    _add_paper(kinds)
    for what, text in (
        ("landmarks", "Train the landmark network"),
        ("distil", "Distil the descriptor network"),
    ):
        _add_taught(kinds, what, text)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="artifact folder to write")
    parser.add_argument("--checkpoint", type=Path, help="(default: runs/WHAT.pt)")
    parser.add_argument("--minutes", type=float, help="stop after this time, finished or not")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")


def _add_start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start",
        help="what to start from: a shipped name, an artifact, a SqueezeNet v1.1 state "
        "(.safetensors or .pth), or another run's checkpoint (.pt); random weights if not given",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--network",
        help="architecture, such as squeezefaceposenet+dwc (default: that of --start, or "
        "squeezefaceposenet); from weights of another one it takes the layers that fit",
    )


def _add_taught(
    kinds: _SubParsersAction[argparse.ArgumentParser], what: str, description: str
) -> None:
    parser = kinds.add_parser(
        what,
        help=f"{description[0].lower()}{description[1:]} from stored teacher outputs",
        description=f"{description} from stored teacher outputs. {RESUME}",
    )
    parser.add_argument(
        "data", type=Path, help="folder with fairface_128_*.zip and fairface_teacher.npz"
    )
    _add_shared(parser)
    parser.add_argument("--cache", type=Path, default=Path(".cache/sfpose"))
    parser.set_defaults(run=_run_landmarks if what == "landmarks" else _run_distil)
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
    parser.add_argument("--seed", type=int, help="(default: the recipe's)")
    parser.add_argument(
        "--face-surface",
        type=Path,
        metavar="FILE",
        help=".safetensors with the vertices and triangles of a generic face, by which some "
        "faces are turned to the side",
    )
    if what == "landmarks":
        parser.add_argument(
            "--start",
            help="landmarks to go on from: a shipped name or an artifact; random weights if none",
        )
        parser.add_argument(
            "--only-score",
            action="store_true",
            help="teach nothing but the face score; landmarks stay those of --start",
        )
        return
    _add_start(parser)
    _add_network(parser)
    parser.add_argument("--landmarks", default="landmarks", help="landmark artifact to align by")
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="ONNX",
        help="the network that gave the stored embeddings, asked about blends of two faces",
    )
    parser.add_argument(
        "--mixed",
        type=int,
        default=60_000,
        metavar="N",
        help="how many blends to make with --teacher (default: 60000)",
    )
    parser.add_argument(
        "--calibrate-on", type=Path, metavar="CFP", help="CFP folder or zip for the threshold"
    )
    parser.add_argument(
        "--calibrate-people", default="1-100", metavar="FIRST-LAST", help="(default: 1-100)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply the images of every stage"
    )


def _add_paper(kinds: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser(
        "paper",
        help="train on labelled people by the paper's protocol",
        description="Train on labelled people by the protocol of the paper's section 4. A data "
        "set is a folder or zip with a folder a person, a .rec file (or a folder with train.rec "
        "and train.idx: MS1M), or a folder with train_list.txt and loose_bb_train.csv "
        f"(VGGFace2). {RESUME} torchrun starts it on several GPUs.",
    )
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    share: dict[str, Any] = {"type": float, "metavar": "SHARE"}
    parser.add_argument("--stage1", type=Path, required=True, metavar="DATA", help="first data set")
    parser.add_argument(
        "--stage2", type=Path, metavar="DATA", help="data set to go on with, under a new head"
    )
    _add_shared(parser)
    _add_start(parser)
    _add_network(parser)
    parser.add_argument("--loss", default="softmax", help="softmax, arcface or cosface")
    parser.add_argument(
        "--min-images",
        nargs="+",
        default=[70, 1],
        **number,
        help="leave out people with fewer images, one number a stage (default: 70 1)",
    )
    parser.add_argument(
        "--crop-share",
        nargs="+",
        **share,
        help="side of the random crop over the shorter side, one number a stage (default: 1 for "
        ".rec files, 0.875 for others)",
    )
    parser.add_argument(
        "--box-margin", default=0.0, **share, help="enlarge VGGFace2's boxes (default: 0)"
    )
    parser.add_argument("--validation-share", default=0.02, **share, help="(default: 0.02)")
    parser.add_argument("--size", **number, help="side of the images (default: the network's)")
    parser.add_argument("--batch-size", default=128, **number, help="(default: 128)")
    parser.add_argument(
        "--rates",
        nargs="+",
        type=float,
        default=[0.01, 0.005, 0.001, 0.0001],
        help="learning rates, the next one at each plateau (default: 0.01 0.005 0.001 0.0001)",
    )
    parser.add_argument(
        "--patience",
        default=3,
        **number,
        help="passes without a lower validation loss that make a plateau (default: 3)",
    )
    parser.add_argument(
        "--max-epochs", default=100, **number, help="passes a stage at most (default: 100)"
    )
    parser.add_argument("--dropout", default=0.5, **share, help="(default: 0.5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default=4, **number, help="decoding threads (default: 4)")
    parser.add_argument(
        "--leave-out-unreadable",
        action="store_true",
        help="go on without images that cannot be read, and count them, instead of stopping",
    )
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=10.0, metavar="MINUTES", help="(default: 10)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--precision",
        default="auto",
        help="float32, bfloat16, or auto: bfloat16 where the device is faster with it",
    )
    parser.set_defaults(run=_run_paper)


def _checkpoint(options: argparse.Namespace) -> Path:
    """Where to keep the run; sets the number of threads on the way into torch."""
    try:
        import torch
    except ImportError as error:
        raise ImportError('training needs torch: pip install "sfpose[train]"') from error
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    checkpoint: Path = options.checkpoint or Path("runs") / f"{options.what}.pt"
    return checkpoint


def _size_and_images(text: str) -> tuple[int, int]:
    try:
        size, images = (int(part) for part in text.split(":"))
    except ValueError:
        size = images = 0
    if size < 1 or images < 1:
        raise argparse.ArgumentTypeError(f"must be SIZE:IMAGES, such as 64:200000; got {text!r}")
    return size, images


def _stages(settings: LoopSettings, options: argparse.Namespace) -> LoopSettings:
    """The settings, with ``--stages`` and ``--seed`` in the place of theirs if they are given."""
    from sfpose.training.settings import falling_stages

    if (options.stages is None) != (options.rate is None):
        raise ValueError("--stages and --rate go together; got one of them")
    if options.seed is not None:
        settings = replace(settings, seed=options.seed)
    if options.stages is None:
        return settings
    return falling_stages(settings, options.stages, options.rate)


def _run_landmarks(options: argparse.Namespace) -> int:
    """Train the landmark network and say where the artifact is."""
    checkpoint = _checkpoint(options)
    from sfpose.runtime.artifact import write_artifact
    from sfpose.training.faces import load_taught_faces
    from sfpose.training.landmarks import LANDMARK_LOOP, train_landmarks

    settings = _stages(LANDMARK_LOOP, options)
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
    path = write_artifact(options.out, artifact.model, artifact.manifest, overwrite=True)
    print(f"wrote {path}")
    return 0


def _run_distil(options: argparse.Namespace) -> int:
    """Distil the descriptor network, calibrate it and say where the artifact is."""
    checkpoint = _checkpoint(options)
    from sfpose.cli.evaluate import people_range
    from sfpose.evaluation import calibrated
    from sfpose.protocols import CFP
    from sfpose.runtime.artifact import write_artifact
    from sfpose.training import recipes
    from sfpose.training.faces import load_taught_faces
    from sfpose.training.mixing import mix_faces, onnx_teacher

    recipe = recipes.shorter(recipes.DistillationRecipe(), options.scale)
    loop = _stages(recipe.loop, options)
    # What is exported takes the size that was seen last.
    recipe = replace(recipe, network=options.network, loop=loop, size=loop.stages[-1].size)
    faces = load_taught_faces(options.data, options.cache)
    if options.teacher is not None:
        teacher = onnx_teacher(options.teacher)
        faces = mix_faces(faces, teacher, options.mixed, options.cache)
    landmarks = recipes.find_own_landmarks(faces, options.landmarks, options.cache)
    artifact, agreement = recipes.distil(
        faces,
        checkpoint,
        landmarks=landmarks,
        start=options.start,
        recipe=recipe,
        face_surface=options.face_surface,
        name=options.out.name,
        stop_after_minutes=options.minutes,
    )
    if options.calibrate_on is not None:
        people = people_range(options.calibrate_people)
        artifact = calibrated(artifact, CFP(options.calibrate_on, people=people))
    path = write_artifact(options.out, artifact.model, artifact.manifest, overwrite=True)
    print(
        f"cosine to the teacher: {agreement['training']:.3f} on training photos, "
        f"{agreement['held_out']:.3f} on photos held out\nwrote {path}"
    )
    return 0


def _run_paper(options: argparse.Namespace) -> int:
    """Train by the paper's protocol, print each pass, and say what was left out."""
    checkpoint = _checkpoint(options)
    from sfpose.runtime.artifact import write_artifact
    from sfpose.training import distributed
    from sfpose.training.paper import PaperStage, train_paper
    from sfpose.training.people import open_people

    data = [path for path in (options.stage1, options.stage2) if path is not None]
    min_images = _each_stage("--min-images", options.min_images, len(data))
    shares = _each_stage("--crop-share", options.crop_share or [math.nan], len(data))
    with distributed.process_group(options.device):
        writes = distributed.place()[0] == 0

        def show(number: int, entry: dict[str, float]) -> None:
            if writes:
                print(_line(number, entry), flush=True)

        stages = [
            PaperStage(
                open_people(path, box_margin=options.box_margin),
                min_images=int(least),
                share=None if math.isnan(share) else share,
            )
            for path, least, share in zip(data, min_images, shares, strict=True)
        ]
        if writes:
            print("stage  pass  rate    loss   accuracy  validation loss  accuracy")
        result = train_paper(
            stages,
            checkpoint,
            start=options.start,
            recipe=_recipe(options),
            on_epoch=show,
            stop_after_minutes=options.minutes,
        )
        if writes:
            artifact = result.artifact
            path = write_artifact(options.out, artifact.model, artifact.manifest, overwrite=True)
            for number, report in enumerate(result.stages, start=1):
                print(_summary(number, report))
            print(f"wrote {path}")
    return 0


def _recipe(options: argparse.Namespace) -> PaperRecipe:
    from sfpose.training.paper import PaperRecipe

    return PaperRecipe(
        network=options.network,
        loss=options.loss,
        size=options.size,
        batch_size=options.batch_size,
        rates=tuple(options.rates),
        patience=options.patience,
        max_epochs=options.max_epochs,
        validation_share=options.validation_share,
        dropout=options.dropout,
        seed=options.seed,
        workers=options.workers,
        on_unreadable="leave out" if options.leave_out_unreadable else "error",
        checkpoint_minutes=options.checkpoint_minutes,
        device=options.device,
        precision=options.precision,
    )


def _each_stage(option: str, values: list[float], stages: int) -> list[float]:
    """One value a stage: those given, or a single one for all; the default has two."""
    if len(values) == 1:
        return values * stages
    if len(values) < stages or len(values) > 2:
        raise ValueError(f"{option} must have one number, or one a stage; got {len(values)}")
    return values[:stages]


def _line(number: int, entry: dict[str, float]) -> str:
    return (
        f"{number:5d} {entry['epoch']:5.0f}  {entry['rate']:<6g} {entry['loss']:6.3f} "
        f"{entry['accuracy']:9.3f} {entry['validation_loss']:16.3f} "
        f"{entry['validation_accuracy']:9.3f}"
    )


def _summary(number: int, report: StageReport) -> str:
    left_out = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
    return (
        f"stage {number}: {report.people} people, {report.training_images} images, "
        f"{report.validation_images} for validation; left out: {left_out}; "
        f"ended by {report.ended}"
    )
