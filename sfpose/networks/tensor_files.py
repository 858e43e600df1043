"""Files of torch, read without running code, and what tensors in them weights may be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["load_without_code", "named_tensors"]


def load_without_code(path: str | Path) -> object:
    """What a file of ``torch.save`` holds, read without running code that it may hold.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    object

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no ordinary file, damaged, compressed, or holds more than tensors and plain values.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from sfpose.networks.tensor_files import load_without_code
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"seen": 3}, f"{folder}/state.pt")
    ...     load_without_code(f"{folder}/state.pt")
    {'seen': 3}
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there must be a file {str(path)!r}; there is none")
    if not path.is_file():
        raise ValueError(f"a file of tensors must be an ordinary file; {str(path)!r} is not")
    rule = f"{path} must hold tensors that torch.load reads with weights_only=True; "
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # torch never compresses; so no small file unpacks to a large one.
                if any(entry.compress_size < entry.file_size for entry in archive.infolist()):
                    raise ValueError("it is compressed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of a damaged pickle, torch lets out what it stumbles on
        raise ValueError(f"{rule}{type(error).__name__}: {error}") from error


def named_tensors(state: object, name: str) -> dict[str, Tensor]:
    """A dictionary of tensors, each dense and of real numbers.

    Parameters
    ----------
    state : object
    name : str
        What to call it in an error.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> import torch
    >>> from sfpose.networks.tensor_files import named_tensors
    >>> named_tensors({"conv1.weight": torch.zeros(2)}, "state")
    {'conv1.weight': tensor([0., 0.])}
    """
    if not isinstance(state, dict):
        raise ValueError(f"{name} must hold a dictionary of tensors; got {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{name} must hold a dictionary of tensors by name; "
                f"{key!r} is a {type(value).__name__}"
            )
        if (kind := _unusual(value)) is not None:
            raise ValueError(f"{name} must hold dense tensors of real numbers; {key!r} is {kind}")
    return state


def _unusual(value: Tensor) -> str | None:
    """What keeps a tensor from being copied into weights as it is."""
    if value.is_meta:
        return "without values"
    if value.is_quantized:
        return "quantised"
    if value.layout != torch.strided:
        return "sparse"
    return "complex" if value.is_complex() else None
