"""Colours of a decoded picture as sRGB. Imports nothing of the library."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from PIL.ImageCms import ImageCmsTransform

__all__ = ["to_srgb"]

_LEAST_CHANGE = 2
_WITHOUT_ALPHA = {"1": "L", "LA": "L"}


def to_srgb(image: PillowImage) -> PillowImage:
    """Picture in mode RGB whose colours are sRGB; alpha is dropped.

    An embedded ICC profile is applied if it is for the colours that the pixels have:
    RGB (grey pixels count as RGB), grey or CMYK. A profile for other colours, as left
    behind by programs that convert pixels and keep the profile, says nothing about these
    pixels and is not applied; neither is one that moves no colour by more than two of 255
    steps, such as sRGB itself. Without a profile pixels are taken as sRGB.

    Parameters
    ----------
    image : Pillow image

    Returns
    -------
    Pillow image of mode RGB

    Raises
    ------
    ValueError
        If the profile is damaged.
    """
    if image.mode == "La":
        # Its values are multiplied by alpha; Pillow undoes that before any other conversion.
        image = image.convert("LA")
    profile = image.info.get("icc_profile")
    if not profile:
        return _converted(image, "RGB")
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        mode = _WITHOUT_ALPHA.get(image.mode, image.mode)
        if space == "RGB" and mode != "CMYK":
            mode = "RGB"
        if (space, mode) not in (("RGB", "RGB"), ("GRAY", "L"), ("CMYK", "CMYK")):
            return _converted(image, "RGB")
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
        pixels = _converted(image, mode)
        if mode == "RGB" and _changes_nothing(transform):
            return pixels
        converted = ImageCms.applyTransform(pixels, transform)
    except (ImageCms.PyCMSError, OSError, TypeError) as error:
        raise ValueError(f"its colour profile must be whole; {error}") from error
    assert converted is not None
    return converted


def _converted(image: PillowImage, mode: str) -> PillowImage:
    if image.mode == mode:
        return image
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # else Pillow warns that the colours' alpha is lost
    return image.convert(mode)


def _changes_nothing(transform: ImageCmsTransform) -> bool:
    from PIL import Image, ImageChops, ImageCms

    steps = range(0, 256, 51)
    colours = bytes(value for r in steps for g in steps for b in steps for value in (r, g, b))
    sample = Image.frombytes("RGB", (len(colours) // 3, 1), colours)
    moved = ImageCms.applyTransform(sample, transform)
    assert moved is not None
    extrema = ImageChops.difference(sample, moved).getextrema()
    return max(high for _, high in extrema) <= _LEAST_CHANGE  # type: ignore[misc]
