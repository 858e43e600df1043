"""``sfpose train paper``: the paper's recipe on labelled people."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from sfpose.cli.arguments import to_path
from sfpose.cli.training import RESUME, add_run, add_start, checkpoint_of

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from sfpose.training.paper import PaperRecipe, StageReport


def add_parser(kinds: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
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
    parser.add_argument(
        "--stage1", type=to_path, required=True, metavar="DATA", help="first data set"
    )
    parser.add_argument(
        "--stage2", type=to_path, metavar="DATA", help="data set to go on with, under a new head"
    )
    add_run(parser)
    add_start(parser)
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
        help="side of the random crop over the shorter side, one number a stage; 1 for faces that "
        "are aligned, as the weights will see them (default: 1 for .rec files, 0.875 for others)",
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


def _run_paper(options: argparse.Namespace) -> int:
    """Train by the paper's protocol, print each pass, and say what was left out."""
    checkpoint = checkpoint_of(options)
    from sfpose.runtime.artifact import write_artifact
    from sfpose.training import distributed
    from sfpose.training.paper import PaperStage, train_paper
    from sfpose.training.people import open_people

    data = [path for path in (options.stage1, options.stage2) if path is not None]
    min_images = _each_stage("--min-images", options.min_images, len(data))
    shares = _each_stage("--crop-share", options.crop_share or [None], len(data))
    with distributed.process_group(options.device):
        writes = distributed.place()[0] == 0

        def show(number: int, entry: dict[str, float]) -> None:
            if writes:
                print(_line(number, entry), flush=True)

        stages = [
            PaperStage(
                open_people(path, box_margin=options.box_margin),
                min_images=int(least),
                share=share,
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
            path = write_artifact(
                options.out, artifact.model, artifact.manifest, overwrite=options.overwrite
            )
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


def _each_stage(option: str, values: list[Any], stages: int) -> list[Any]:
    """One value a stage: those given, or a single one for all; the default has two."""
    if len(values) == 1:
        return values * stages
    if len(values) < stages or len(values) > 2:
        raise ValueError(f"{option} must have one number, or one a stage; got {len(values)}")
    return values[:stages]


def _line(number: int, entry: dict[str, float]) -> str:
    # A pass of which no batch could be learned from has no measurements of training.
    loss, accuracy = (entry.get(name, math.nan) for name in ("loss", "accuracy"))
    return (
        f"{number:5d} {entry['epoch']:5.0f}  {entry['rate']:<6g} {loss:6.3f} {accuracy:9.3f} "
        f"{entry['validation_loss']:16.3f} {entry['validation_accuracy']:9.3f}"
    )


def _summary(number: int, report: StageReport) -> str:
    left_out = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
    return (
        f"stage {number}: {report.people} people, {report.training_images} images, "
        f"{report.validation_images} for validation; left out: {left_out}; "
        f"ended by {report.ended}"
    )
