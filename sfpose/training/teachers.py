"""Teachers from ONNX files, run by torch wherever the student learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sfpose.training.onnx_files import parse_network
from sfpose.training.settings import autocast

__all__ = ["TEACHER_SIZE", "OnnxTeacher", "Teacher", "both_looks", "each_look", "unit_rows"]

TEACHER_SIZE = 112

Teacher = Callable[[Tensor], Tensor]
"""Embeddings (n, d) of aligned crops (n, 3, 112, 112), RGB, values 0 to 1, on their device."""


class OnnxTeacher(nn.Module):
    """A convolutional face network from an ONNX file, such as SFace, as a torch module.

    Published files take one face at a time on the CPU; as a module the same network takes
    batches on any device. It computes in bfloat16 where that is fast, which leaves SFace's
    embeddings within a cosine of 0.999 of those in float32.

    Parameters
    ----------
    path : str or Path
        Takes float32 (1, 3, 112, 112), RGB, values 0 to 255; gives (1, d).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no ONNX file, holds an operation other than those of plain convolutional
        networks or one with an attribute of another kind, is not a chain of them with one input,
        or refers to data in other files.
    """

    def __init__(self, path: str | Path) -> None:
        from onnx import helper, numpy_helper

        super().__init__()
        if not Path(path).is_file():
            raise FileNotFoundError(f"a teacher must be an ONNX file; {str(path)!r} is none")
        graph = parse_network(Path(path).read_bytes()).graph
        self._places: dict[str, str] = {}  # Names in files are no names for buffers.
        for number, stored in enumerate(graph.initializer):
            self._places[stored.name] = f"stored{number}"
            values = torch.from_numpy(numpy_helper.to_array(stored).copy())
            self.register_buffer(f"stored{number}", values)
        self._steps: list[tuple[str, list[str], dict[str, Any]]] = []
        inputs = [each.name for each in graph.input if each.name not in self._places]
        if len(inputs) != 1:
            raise ValueError(f"a teacher must have one input; {str(path)!r} has {len(inputs)}")
        before = inputs[0]
        for node in graph.node:
            if node.op_type not in _OPERATIONS:
                raise ValueError(
                    f"a teacher must be made of {', '.join(sorted(_OPERATIONS))}; "
                    f"{str(path)!r} holds {node.op_type}"
                )
            first, *stored_ones = node.input
            if first != before or not self._places.keys() >= set(stored_ones):
                raise ValueError(f"a teacher must be a chain of operations; {str(path)!r} branches")
            options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            known = _attributes(node.op_type)
            if not known >= options.keys():
                allowed = ", ".join(sorted(known)) or "nothing"
                raise ValueError(
                    f"{node.op_type} of a teacher may state {allowed}; {str(path)!r} has "
                    f"{', '.join(sorted(options.keys() - known))}"
                )
            self._steps.append((node.op_type, [self._places[at] for at in stored_ones], options))
            before = node.output[0]
        if [each.name for each in graph.output] != [before]:
            raise ValueError(
                f"a teacher must give what its last operation does; {str(path)!r} gives another"
            )
        self._fold_normalisations()
        self.eval()

    def _fold_normalisations(self) -> None:
        # A convolution that does what the normalisation after it does: a third more faces a second.
        steps: list[tuple[str, list[str], dict[str, Any]]] = []
        for operation, stored, options in self._steps:
            if operation != "BatchNormalization" or not steps or steps[-1][0] != "Conv":
                steps.append((operation, stored, options))
                continue
            _, filters, around = steps.pop()
            weight, *biases = (getattr(self, at) for at in filters)
            gamma, beta, mean, variance = (getattr(self, at) for at in stored)
            none = torch.zeros_like(mean)
            bias = biases[0] if biases else none
            # Filters are scaled as what they give is, and the bias is shifted too.
            scaled = _normalisation(
                weight.transpose(0, 1), gamma, none, none, variance, **options
            ).transpose(0, 1)
            shifted = _normalisation(bias[None], gamma, beta, mean, variance, **options)[0]
            names = [f"folded{len(steps)}_{part}" for part in ("weight", "bias")]
            for name, values in zip(names, (scaled.contiguous(), shifted), strict=True):
                self.register_buffer(name, values)
            steps.append(("Conv", names, around))
        self._steps = steps
        for unused in self._buffers.keys() - {at for _, stored, _ in steps for at in stored}:
            delattr(self, unused)

    @torch.no_grad()
    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings (n, d), float32, of crops (n, 3, 112, 112) with values 0 to 1."""
        values = 255 * crops.contiguous(memory_format=torch.channels_last)
        with autocast(crops.device, "auto"):
            for operation, stored, options in self._steps:
                given = [getattr(self, at) for at in stored]
                values = _OPERATIONS[operation](values, *given, **options)
        return values.float()


def each_look(teacher: Teacher, crops: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a teacher says of crops (n, 3, 112, 112) and of their mirror images, (n, d) each."""
    image, mirror = (teacher(each).cpu().numpy() for each in (crops, crops.flip(3)))
    return image, mirror


def both_looks(
    embeddings: NDArray[np.float32], mirror_embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sum of a teacher's embeddings (n, d) of images and of their mirrors, each of length 1."""
    return unit_rows(embeddings) + unit_rows(mirror_embeddings)


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (..., d) brought to length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-8)


def _attributes(operation: str) -> set[str]:
    """Attributes that an operation takes account of."""
    takes = signature(_OPERATIONS[operation]).parameters.values()
    return {each.name for each in takes if each.kind is each.KEYWORD_ONLY}


# Each names every attribute that it knows, with ONNX's value for one that a file leaves out.


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
) -> Tensor:
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, weight, bias, strides, (top, left), dilations, group)


def _normalisation(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
) -> Tensor:
    return F.batch_norm(x, mean, var, gamma, beta, eps=epsilon)


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    x, weight = x.T if transA else x, weight.T if transB else weight
    if bias is None:
        return alpha * (x @ weight)
    return torch.addmm(bias, x, weight, alpha=alpha, beta=beta)


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "BatchNormalization": _normalisation,
    "Conv": _convolution,
    "Dropout": lambda x, *_unused, ratio=0.5: x,
    "Flatten": lambda x, *, axis=1: x.reshape(math.prod(x.shape[:axis]), -1),
    "Gemm": _linear,
    "Mul": lambda x, factor: x * factor,
    "PRelu": lambda x, slope: F.prelu(x, slope.flatten()),
    "Sub": lambda x, subtrahend: x - subtrahend,
}
