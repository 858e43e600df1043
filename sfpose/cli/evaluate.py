"""``sfpose evaluate lfw|cfp|poses PATH``: error rates of the weights on a data set."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sfpose.cli.arguments import people_range
from sfpose.cli.output import print_json, say_left_out
from sfpose.cli.photos import add_embedding_options, in_steps

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sfpose.embedder import FaceEmbedder
    from sfpose.protocols import LazyImages, PoseFolder


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "evaluate",
        help="measure error rates on LFW, CFP or by pose",
        description="Measure error rates on a data set that you have: LFW (a folder or zip "
        "with pairs.txt), CFP (a folder or zip of subject/pose/image), or, by the paper's pose "
        "protocol, any folder or zip of subject/pose/image with the poses frontal, "
        "three_quarter and profile.",
    )
    parser.add_argument("dataset", choices=("lfw", "cfp", "poses"))
    parser.add_argument("path", help="folder or zip file of the data set")
    parser.add_argument(
        "--people", type=people_range, metavar="FIRST-LAST", help="people to take (not LFW)"
    )
    add_embedding_options(parser)
    parser.add_argument(
        "--no-align", action="store_true", help="take the paper's loose crop, without landmarks"
    )
    parser.add_argument(
        "--min-face-score",
        type=float,
        metavar="SCORE",
        help="face score, 0 to 1, below which an image is not acquired (default: that of the "
        "landmark network; 0 takes every image)",
    )
    parser.add_argument("--draws", type=int, default=200, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def embed_with_progress(
    embedder: FaceEmbedder, images: LazyImages, *, progress: bool = True
) -> NDArray[np.float32]:
    """Embed a data set behind a progress bar, which shows only on a terminal."""
    import numpy as np

    def embed(_: int, part: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return embedder.transform(part)

    parts = in_steps(images, images.names, 4 * embedder.batch_size, embed, progress=progress)
    return np.concatenate(parts)


class CountedEmbedding:
    """Embeds images behind a progress bar, and counts those that could not be acquired.

    Parameters
    ----------
    embedder : FaceEmbedder
    progress : bool

    Attributes
    ----------
    images, lost : int
        How many were embedded, and how many of them gave a row of NaN.
    """

    def __init__(self, embedder: FaceEmbedder, *, progress: bool) -> None:
        self._embedder, self._progress = embedder, progress
        self.images = self.lost = 0

    def __call__(self, images: LazyImages) -> NDArray[np.float32]:
        """Descriptors (n, d) of ``images``."""
        import numpy as np

        rows = embed_with_progress(self._embedder, images, progress=self._progress)
        self.images += len(rows)
        self.lost += int(np.isnan(rows).any(axis=1).sum())
        return rows

    def to_dict(self) -> dict[str, int]:
        """Both counts, for JSON."""
        return {"images": self.images, "not_acquired": self.lost}

    def __str__(self) -> str:
        if not self.lost:
            return ""
        return (
            f"{self.lost} of {self.images} images could not be acquired; "
            "templates are the means of the others\n"
        )


def run(options: argparse.Namespace) -> int:
    """Print the table or the JSON object."""
    from sfpose.embedder import FaceEmbedder
    from sfpose.evaluation import evaluate_cfp, evaluate_lfw, evaluate_poses, format_table
    from sfpose.protocols import CFP, LFW, PoseFolder

    if options.no_align and options.min_face_score is not None:
        raise ValueError("--min-face-score needs landmarks, which find faces; got --no-align")
    embedder = FaceEmbedder(
        options.weights,
        align=False if options.no_align else "auto",
        min_face_score="auto" if options.min_face_score is None else options.min_face_score,
        batch_size=options.batch_size,
        n_jobs=options.n_jobs,
    )

    embed = CountedEmbedding(embedder, progress=options.progress)
    left_out: list[str] = []
    if options.dataset == "lfw":
        if options.people is not None:
            raise ValueError("--people does not go with lfw, which names its pairs itself")
        rows = evaluate_lfw(LFW(options.path), embed, draws=options.draws)
    else:
        folder: PoseFolder
        if options.dataset == "cfp":
            folder = cfp = CFP(options.path, people=options.people)
            rows = evaluate_cfp(cfp, embed, draws=options.draws)
        else:
            folder = PoseFolder(options.path, people=options.people)
            rows = evaluate_poses(folder, embed, draws=options.draws)
        left_out = folder.without_image
    if options.json:
        told = {"weights": str(options.weights), "rows": [row.to_dict() for row in rows]}
        print_json({**told, **embed.to_dict(), "people_without_image": left_out})
    else:
        print(f"{format_table(rows)}\n{embed}", end="")
        say_left_out(left_out)
    return 0
