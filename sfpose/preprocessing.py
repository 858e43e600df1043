"""From what an app has to what a network takes: decoding, colour and crop geometry.

The test-time geometry of the paper (section 4) and the aligned crop stand here and
nowhere else.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfpose._colour import to_srgb

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = [
    "MAX_PIXELS",
    "ImageLike",
    "Images",
    "aligned_crop",
    "as_network_input",
    "count_images",
    "decode_image",
    "iterate_images",
    "loose_crop",
    "read_image",
]

ImageLike: TypeAlias = "NDArray[np.uint8] | PillowImage | str | os.PathLike[str]"
Images: TypeAlias = "Sequence[ImageLike] | NDArray[np.uint8]"

MAX_PIXELS = 64 * 10**6
"""Images with more pixels than this are refused before they are decoded."""
_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
_TURNS |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
"""What turns a picture upright, by its EXIF orientation, as Pillow names it."""

_SINGLE = (str, os.PathLike, bytes, bytearray, memoryview)


def _check_array(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"images must be uint8 RGB of shape (H, W, 3); got {image.dtype} of shape {image.shape}"
        )
    if np.ma.is_masked(image):
        raise ValueError("images must have no masked pixels: fill them, or leave the image out")
    if 0 in image.shape:
        raise ValueError(f"images must have at least one pixel; got shape {image.shape}")
    return image


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG or WebP file, turned upright by its EXIF orientation, as sRGB.

    The contents decide the format, not the name. Of an MPO file of a phone the first
    picture is taken. Alpha is dropped. Colours with an embedded ICC profile are converted
    to sRGB; a profile for other colours than the pixels have is not applied.

    Parameters
    ----------
    path : path

    Returns
    -------
    uint8 array of shape (H, W, 3), RGB

    Raises
    ------
    FileNotFoundError
        If there is no such file, or it is a folder.
    ValueError
        If the file is no JPEG, PNG or WebP image, is cut off, or so damaged that it cannot
        be decoded (its colour profile too), animated, has more than 8 bits a channel or more
        than ``MAX_PIXELS`` pixels. Damage inside a JPEG or WebP may go unnoticed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sfpose.preprocessing import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "grey.png"
    ...     Image.fromarray(np.full((4, 5), 9, np.uint8)).save(path)
    ...     read_image(path).shape
    (4, 5, 3)
    """
    if not os.path.isfile(path):  # Path.is_file raises an error for too long a name
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise FileNotFoundError(f"an image path must name a file; {str(path)!r} {found}")
    with open(path, "rb") as file:
        return decode_image(file, str(path))


def decode_image(file: BinaryIO, name: str) -> NDArray[np.uint8]:
    """Decode an open image file as ``read_image`` does.

    Parameters
    ----------
    file : binary file
    name : str
        What to call it in an error.

    Returns
    -------
    uint8 array of shape (H, W, 3), RGB

    Raises
    ------
    ValueError
        If the file is refused by what ``read_image`` says.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sfpose.preprocessing import decode_image
    >>> file = io.BytesIO()
    >>> Image.fromarray(np.full((4, 5), 9, np.uint8)).save(file, "PNG")
    >>> decode_image(file, "grey.png").shape
    (4, 5, 3)
    """
    from PIL import Image

    with _refusing(f"an image file must be a whole JPEG, PNG or WebP; {name!r} is not"):
        try:
            with Image.open(file, formats=_FORMATS) as image:
                return _from_pillow(image, repr(name))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _Refused(f"{name!r} must have at most {MAX_PIXELS} pixels; {error}") from error


class _Refused(Exception):
    """An image that is whole and that the rules exclude."""


@contextlib.contextmanager
def _refusing(rule: str) -> Iterator[None]:
    """Say the rule for whatever decoders raise on damaged images, which is beyond a list."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except _Refused as error:
        raise ValueError(*error.args) from None
    except MemoryError:
        raise
    except UnidentifiedImageError:  # which says no more than where in memory the file is
        raise ValueError(rule) from None
    except Exception as error:
        raise ValueError(f"{rule}: {error}") from error


def _from_pillow(image: PillowImage, name: str) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _Refused(f"{name} must have at most {MAX_PIXELS} pixels; got {width} x {height}")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise _Refused(f"{name} must be a still image; got an animation")
    # Pillow opens 16 bits of RGB as 8; before it decodes, the raw mode tells.
    raw = [str(part[-1]) for part in getattr(image, "tile", []) if ";16" in str(part[-1])]
    if raw or image.mode[0] in "IF":
        mode = (raw or [image.mode])[0]
        raise _Refused(f"{name} must have 8 bits a channel; it has more (mode {mode})")
    return _check_array(np.array(to_srgb(_upright(image))))


def _upright(image: PillowImage) -> PillowImage:
    """As its EXIF orientation says; as it lies, as for OpenCV, where that cannot be read.

    ``ImageOps.exif_transpose`` writes the other tags anew, and raises where one of them is odd.
    """
    from PIL.Image import Transpose

    image.load()  # PNG may hold its orientation behind its pixels
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (MemoryError, Warning):  # where callers make errors of warnings, this may be one
        raise
    except Exception:
        return image
    return image if turn is None else image.transpose(Transpose[turn])


def count_images(images: Images) -> int:
    """Number of images in ``images``; refuses what is no ordered collection of images.

    Parameters
    ----------
    images : sequence of images

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``images`` is empty, one image or path, has no length as a generator has none, or
        iterates by something else than its images in order, as sets, dicts and data frames do.
    """
    if problem := _no_collection(images):
        rule = "images must be a list of images or an array of shape (n, H, W, 3)"
        raise ValueError(f"{rule}; got {problem}")
    if len(images) == 0:
        raise ValueError("images must hold at least one image; got none")
    if isinstance(images, np.ndarray) and images.ndim == 4:
        _check_array(images[0])
    return len(images)


def _no_collection(images: object) -> str | None:
    """What is given instead of a collection of images, and what to give; None if it is one."""
    kind = type(images).__name__
    if isinstance(images, (set, frozenset)):
        return f"a {kind}, which has no order: give a list, so that row i is of image i"
    if hasattr(images, "toarray"):
        return f"a sparse {kind}"
    if isinstance(images, Mapping):
        return f"a {kind}, which goes by its keys: give list(images.values())"
    if hasattr(images, "columns"):
        return f"a {kind}, which goes by the names of its columns: give one column"
    if isinstance(images, np.ndarray) and images.ndim:
        # Objects and texts: images of several sizes, and paths.
        several = images.ndim == 4 or (images.ndim == 1 and images.dtype.kind in "OUST")
        shape = f"{images.dtype} of shape {images.shape}"
        single = ": wrap a single image in a list" if images.ndim == 3 else ""
        return None if several else f"{shape}{single}"
    if isinstance(images, (*_SINGLE, np.ndarray)) or not isinstance(images, Iterable):
        return f"one {kind}: wrap a single image in a list"
    return None if hasattr(images, "__len__") else f"a {kind}: make a list of it by list(...)"


def iterate_images(images: Images) -> Iterator[NDArray[np.uint8]]:
    """Decode a collection of images one at a time, in order.

    Parameters
    ----------
    images : sequence
        uint8 RGB arrays of any size, one array of shape (n, H, W, 3), Pillow images,
        or paths of JPEG, PNG and WebP files; kinds may be mixed in a list.

    Yields
    ------
    uint8 array of shape (H, W, 3)

    Raises
    ------
    ValueError, FileNotFoundError
        With the number of the image that is refused.

    Examples
    --------
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sfpose.preprocessing import iterate_images
    >>> images = [np.zeros((8, 9, 3), np.uint8), Image.new("L", (5, 4))]
    >>> [image.shape for image in iterate_images(images)]
    [(8, 9, 3), (4, 5, 3)]
    """
    count_images(images)
    for number, image in enumerate(images):
        try:
            yield _decode(image)
        except (ValueError, OSError) as error:
            kind = ValueError if isinstance(error, ValueError) else type(error)
            raise kind(f"image {number}: {error}") from error


def _decode(image: ImageLike) -> NDArray[np.uint8]:
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, np.ndarray):
        return _check_array(image)
    if hasattr(image, "convert") and hasattr(image, "size"):
        with _refusing("a Pillow image must be whole; this one is not"):
            return _from_pillow(image, "a Pillow image")
    raise ValueError(
        "an image must be a uint8 RGB array of shape (H, W, 3), a Pillow image or a path; "
        f"got {type(image).__name__}"
    )


def loose_crop(
    image: NDArray[np.uint8],
    size: int = 113,
    *,
    share: float = 224 / 256,
    place: tuple[float, float] = (0.5, 0.5),
) -> NDArray[np.uint8]:
    """The paper's crop: shorter side to 256, centre 224x224, scaled to ``size``.

    Done in one resampling, since both scalings keep the ratio of the sides.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)
    size : int, default=113
    share : float, default=0.875
        Side of the square over the shorter side of the image; black outside of it.
    place : (float, float), default=(0.5, 0.5)
        Where the square lies between left and right, and between top and bottom, 0
        to 1: the centre in tests, drawn at random in training.

    Returns
    -------
    uint8 array of shape (size, size, 3)

    References
    ----------
    Alonso-Fernandez et al., section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from sfpose.preprocessing import loose_crop
    >>> loose_crop(np.zeros((300, 200, 3), np.uint8)).shape
    (113, 113, 3)
    """
    height, width = image.shape[:2]
    side = min(height, width) * share
    left, top = (width - side) * place[0], (height - side) * place[1]
    square = np.array([[side, 0, left], [0, side, top], [0, 0, 1]])
    return aligned_crop(image, square, size)


def aligned_crop(image: NDArray[np.uint8], matrix: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Draw the square that a similarity cuts out of an image.

    Parameters
    ----------
    image : uint8 array of shape (H, W, 3)
    matrix : array of shape (3, 3)
        From the crop's unit square to pixel coordinates of the image (the centre of
        the first pixel at 0.5, 0.5), as
        ``sfpose.geometry.similarity_to_canonical`` gives it.
    size : int
        Side of the crop in pixels.

    Returns
    -------
    uint8 array of shape (size, size, 3)
        Black where the square leaves the image.
    """
    from PIL import Image

    matrix = np.asarray(matrix, dtype=np.float64)
    corners = (matrix @ np.array([[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1.0]]))[:2]
    height, width = image.shape[:2]
    # Two pixels of margin: the bilinear kernel looks at neighbours.
    left, top = (max(0, math.floor(low) - 2) for low in corners.min(1))
    right = min(width, math.ceil(corners[0].max()) + 2)
    bottom = min(height, math.ceil(corners[1].max()) + 2)
    if right <= left or bottom <= top:
        return np.zeros((size, size, 3), np.uint8)
    part = Image.fromarray(image[top:bottom, left:right])
    move = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ matrix
    step = math.hypot(matrix[0, 0], matrix[1, 0]) / size
    if step > 1.5:
        # Shrink with a proper filter first: bilinear sampling alone would alias.
        target = (max(1, round(part.width / step)), max(1, round(part.height / step)))
        shrink = np.diag([target[0] / part.width, target[1] / part.height, 1.0])
        part = part.resize(target, Image.Resampling.BILINEAR)
        move = shrink @ move
    to_pixels = move @ np.diag([1 / size, 1 / size, 1.0])
    crop = part.transform(
        (size, size),
        Image.Transform.AFFINE,
        tuple(to_pixels[:2].ravel()),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(crop)


def as_network_input(
    crops: Iterable[NDArray[np.uint8]], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Stack crops to the standardised float32 batch (n, 3, h, w) of a network.

    Parameters
    ----------
    crops : iterable of uint8 arrays of shape (h, w, 3)
    mean, std : sequences of three floats
        Of the channels, on the scale 0 to 1.
    """
    batch = np.stack(list(crops)).astype(np.float32)
    batch -= np.float32(255) * np.asarray(mean, dtype=np.float32)
    batch /= np.float32(255) * np.asarray(std, dtype=np.float32)
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
