"""``sfpose embed PHOTOS --out FILE``: descriptors of a folder of photos."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sfpose.cli.arguments import check_new, to_path
from sfpose.cli.finding import find_photos
from sfpose.cli.output import print_json, shown
from sfpose.cli.photos import add_photo_options, embed_photos, readable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    import numpy as np
    from numpy.typing import NDArray


def add_parser(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "embed",
        help="write the descriptors of photos to a file",
        description="Turn photos into descriptors and write them to a file. OUT.npz holds the "
        'arrays "descriptors" and "files"; OUT.safetensors holds the tensor "descriptors", and '
        'the names of the files as JSON under "files" in its metadata. A photo in which nothing '
        "is found gets a row of NaN; with a detector, it gets no row.",
    )
    parser.add_argument("photos", nargs="+", help="photos, or folders that hold some at any depth")
    parser.add_argument("--out", type=to_path, required=True, help="FILE.npz or FILE.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    add_photo_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the file and say how many descriptors it holds."""
    import numpy as np

    from sfpose.runtime.replacing import saying

    out: Path = options.out
    if out.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"--out must end in .npz or .safetensors; got {str(out)!r}")
    place = check_new(out, options.overwrite)
    photos = find_photos(options.photos)
    rows, unreadable = readable(photos, options)
    photos = [photos[row] for row in rows]
    faces = embed_photos(photos, options)
    if not len(faces.index):
        raise ValueError("no photo shows a face that the policy takes; nothing was written")
    files = [str(photos[row]) for row in faces.index]
    lost = int(np.isnan(faces.descriptors[:, 0]).sum())
    with saying(out):
        _write(place, out.suffix, faces.descriptors, files)
    without = len(photos) - len(set(faces.index.tolist())) + lost
    if options.json:
        told = {"out": str(out), "photos": len(photos), "rows": len(files), "no_face": without}
        print_json({**told, "unreadable": unreadable})
    else:
        print(f"wrote {len(files)} descriptors of {len(photos)} photos to {shown(out)}")
        if without:
            print(f"in {without} photos no face was found or taken")
    return 0


def _write(path: Path, kind: str, descriptors: NDArray[np.float32], files: list[str]) -> None:
    import numpy as np

    from sfpose.runtime.files import whole_file
    from sfpose.runtime.tensors import tensor_file

    if kind == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, descriptors=descriptors, files=np.array(files))
        data = buffer.getvalue()
    else:
        data = tensor_file("descriptors", descriptors, {"files": json.dumps(files)})
    with whole_file(path) as part:
        part.write_bytes(data)
