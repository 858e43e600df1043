"""Face verification across head poses with a small model, on a plain CPU, offline."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfpose._kernels.caching import cache_kernels
    from sfpose.alignment import FaceAligner
    from sfpose.embedder import FaceEmbedder
    from sfpose.gallery import TemplateGallery
    from sfpose.templates import build_templates, extend_template
    from sfpose.verifier import TemplateVerifier

__version__ = "0.1.0"

__all__ = [
    "FaceAligner",
    "FaceEmbedder",
    "TemplateGallery",
    "TemplateVerifier",
    "__version__",
    "build_templates",
    "cache_kernels",
    "extend_template",
]

_HOMES = {
    "FaceAligner": "sfpose.alignment",
    "FaceEmbedder": "sfpose.embedder",
    "TemplateGallery": "sfpose.gallery",
    "TemplateVerifier": "sfpose.verifier",
    "build_templates": "sfpose.templates",
    "cache_kernels": "sfpose._kernels.caching",
    "extend_template": "sfpose.templates",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
