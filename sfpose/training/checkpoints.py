"""Checkpoint files: whole or not there, read without running code, and of which run."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sfpose._checks import is_number
from sfpose.networks.tensor_files import load_without_code, named_tensors
from sfpose.runtime.artifact import read_artifact
from sfpose.runtime.files import whole_file
from sfpose.training.asking import digest
from sfpose.training.faces import TaughtFaces
from sfpose.training.mixing import Blends
from sfpose.training.people import ImageTable
from sfpose.training.settings import LoopSettings

__all__ = [
    "CHECKPOINT_FORMAT",
    "RUN_ENTRIES",
    "check_same_run",
    "load_checkpoint",
    "run_facts",
    "save_checkpoint",
    "start_digest",
    "table_digest",
    "taught_facts",
]

CHECKPOINT_FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    try:
        with whole_file(path) as part, open(part, "wb") as file:
            torch.save({"format": CHECKPOINT_FORMAT, **state}, file)
    except (OSError, RuntimeError) as error:  # torch raises either where a disk is full
        raise OSError(f"{str(path)!r} cannot be written and is as it was: {error}") from error


def load_checkpoint(path: str | Path, needs: Collection[str] = ()) -> dict[str, Any]:
    """Read a checkpoint without running code that it may hold.

    Parameters
    ----------
    path : str or Path
    needs : collection of str
        Entries that it must have.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no checkpoint of this format, lacks an entry, or has one of another form.
    """
    try:
        state = load_without_code(path)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    stated = state.get("format") if isinstance(state, dict) else None
    if not isinstance(state, dict) or type(stated) is not int or stated != CHECKPOINT_FORMAT:
        raise ValueError(
            f"checkpoint {path} must have format {CHECKPOINT_FORMAT}; got another file"
        )
    for name in _TENSORS:
        if name in state:
            named_tensors(state[name], f"entry {name!r} of checkpoint {path}")
    for name, (is_right, rule) in _FORMS.items():
        if name in state and not is_right(state[name]):
            raise ValueError(f"entry {name!r} of checkpoint {path} must be {rule}; it is not")
    _check_entries(path, state, needs)
    return state


def _check_entries(path: str | Path, state: Mapping[str, Any], needs: Collection[str]) -> None:
    for name in needs:
        if name not in state:
            raise ValueError(f"checkpoint {path} must have an entry {name!r}; it has none")


def _is_facts(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and _is_plain(each) for name, each in value.items()
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return _is_facts(value)
    return value is None or isinstance(value, (str, bool, int, float))


def _is_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and is_number(each) for name, each in value.items()
    )


def _is_list(value: object, is_right: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


_TENSORS = ("network", "averaged", "objective")
_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "optimizers": (
        lambda value: _is_list(value, lambda each: isinstance(each, dict)),
        "a list of dictionaries",
    ),
    "schedule": (_is_facts, "a dictionary of plain values"),
    "seen": (lambda value: type(value) is int and value >= 0, "a whole number of at least 0"),
    "run": (_is_facts, "a dictionary of plain values"),
    "this_pass": (
        lambda value: (
            isinstance(value, list)
            and len(value) == 2
            and _is_numbers(value[0])
            and type(value[1]) is int
        ),
        "sums by name and a count",
    ),
    "unreadable": (
        lambda value: _is_list(value, lambda each: isinstance(each, str)),
        "a list of names",
    ),
    "history": (lambda value: _is_list(value, _is_numbers), "a list of numbers by name"),
    "finished": (lambda value: isinstance(value, bool), "true or false"),
}
RUN_ENTRIES = (*_TENSORS, *_FORMS)
"""All that a run goes on from."""


def run_facts(
    network: nn.Module, objective: nn.Module, images: int, settings: LoopSettings
) -> dict[str, Any]:
    """What makes a run the one that it is, as plain values by name.

    How many images the last stage has is none of it, nor what says where and how fast it runs.

    Parameters
    ----------
    network, objective : nn.Module
        Of the objective its class counts, and those of its attributes that are plain values.
    images : int
        In a pass.
    settings : LoopSettings
        ``facts`` have the last word.
    """
    stages = settings.stages
    own = {
        f"objective's {name}": value
        for name, value in vars(objective).items()
        if isinstance(value, int | float | str) and not name.startswith("_") and name != "training"
    }
    learning = [
        each.numel()
        for module in (network, objective)
        for each in module.parameters()
        if each.requires_grad
    ]
    facts = {
        "objective": type(objective).__name__,
        **own,
        "parameters that learn": sum(learning),
        "images a pass": images,
        "images before the last stage": [stage.images for stage in stages[:-1]],
        "image sizes": [stage.size for stage in stages],
        "batch sizes": [stage.batch_size for stage in stages],
        "seed": settings.seed,
        "optimizer": settings.optimizer,
        "learning rate": settings.learning_rate,
        "shares of the rate": [stage.rates for stage in stages],
        "weight decay": settings.weight_decay,
        "warmup": settings.warmup,
        "average": settings.average,
        "clip": settings.clip,
        "head factor": settings.head_factor,
        **settings.facts,
    }
    return _as_read(facts)


def _as_read(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they come back from a file: no tuples, and no numbers of NumPy."""
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=float))
    return plain


def taught_facts(
    faces: TaughtFaces,
    start: str | Path | Sequence[str | Path] | None,
    face_surface: str | Path | None,
    *,
    landmarks: NDArray[np.float32] | None = None,
    blends: Blends | None = None,
) -> dict[str, object]:
    """What makes a run on a teacher's stored outputs the one that it is: digests by name.

    Parameters
    ----------
    faces : TaughtFaces
        Of the photos some are looked at.
    start, face_surface, landmarks, blends
        See ``sfpose.training.recipes.distil``.
    """
    some = np.linspace(0, len(faces.photos) - 1, 64).astype(int)
    surface = None if face_surface is None else digest(_contents(face_surface))
    return {
        "start": start_digest(start),
        "face surface": surface,
        "photos": digest(faces.photos[some], faces.scores, faces.held_out),
        "landmarks": digest(faces.landmarks if landmarks is None else landmarks),
        "what the teacher says": digest(faces.embeddings, faces.mirror_embeddings),
        "blends": None if blends is None else digest(*blends.pairs, blends.embeddings),
    }


def start_digest(start: str | Path | Sequence[str | Path] | None) -> str | None:
    """Sixteen hexadecimal digits that tell what a run starts from by what it holds.

    Parameters
    ----------
    start : str, Path, sequence of them or None
        See ``sfpose.training.starts.start_network``.
    """
    if start is None:
        return None
    starts = [start] if isinstance(start, str | Path) else start
    return digest(
        *(
            _contents(each)
            if Path(each).suffix in (".pt", ".pth", ".safetensors")
            else np.frombuffer(read_artifact(each).model, np.uint8)
            for each in starts
        )
    )


def table_digest(table: ImageTable, rows: NDArray[np.int64], *more: ArrayLike) -> str:
    """Sixteen hexadecimal digits that tell images of a table apart: by all names and a few looks.

    Parameters
    ----------
    table : ImageTable
    rows : int64 array of shape (n,)
    *more : array-likes
        Labels and the like, which count too.
    """
    names = "\n".join(table.name(row) for row in rows.tolist())
    # Names of files need not be text.
    encoded = names.encode(errors="surrogateescape")
    few = rows[np.linspace(0, len(rows) - 1, 16).astype(int)]
    looks = np.array([_look(table, row) for row in few.tolist()])
    return digest(np.frombuffer(encoded, np.uint8), looks, *(np.asarray(each) for each in more))


def _look(table: ImageTable, row: int) -> list[int]:
    try:
        image = table.image(row)
    except (ValueError, OSError):
        return [0] * 5
    # Coarse colours: another version of a decoder may round otherwise.
    return [*image.shape[:2], *(image.mean((0, 1)) // 32).astype(int)]


def _contents(path: str | Path) -> NDArray[np.uint8]:
    return np.fromfile(path, np.uint8)


def check_same_run(path: Path, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of another run.

    Parameters
    ----------
    path : Path
        What to call it.
    state : mapping
        What ``load_checkpoint`` gives.
    facts : mapping
        See ``run_facts``. What only one of both knows is not compared.

    Raises
    ------
    ValueError
        If a fact differs, or the checkpoint says none.
    """
    _check_entries(path, state, ["run"])
    kept = state["run"]
    different = [
        f"{name} ({kept[name]} there, {value} here)"
        for name, value in _as_read(facts).items()
        if name in kept and kept[name] != value
    ]
    if different:
        raise ValueError(
            f"checkpoint {path} must be of the same run; it is of another {', '.join(different)}: "
            "give another checkpoint, or the settings of that run"
        )
