"""One image file as a uint8 array."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from noprop_dist.errors import UserError
from noprop_dist.files import open_file

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
GREY = ("1", "L", *SIXTEEN_BITS)
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
MAX_PIXELS = 2**27
"""Of one image; a file of a few kilobytes can claim a billion."""

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS refuses them in a sentence of our own


@dataclass(frozen=True)
class ImageKind:
    """What the header of an image file tells, without its pixels."""

    grey: bool
    sixteen_bits: bool
    transparent: bool
    animated: bool


def image_kind(file: Path) -> ImageKind:
    """Read the header of an image file.

    Raises:
        UserError: there is no such file, or it is no image.
    """
    try:
        with open_file(file) as opened, Image.open(opened) as image:
            grey = image.mode in GREY or _is_sixteen_bits(image)
            sixteen = _is_sixteen_bits(image) or bool(re.search(";16[BLN]", str(image.tile)))
            transparent = image.mode in TRANSPARENT or "transparency" in image.info
            return ImageKind(grey, sixteen, transparent, getattr(image, "is_animated", False))
    except Exception as error:
        raise _unreadable(file, error) from error


def lost_of(kind: ImageKind, channels: int) -> list[str]:
    """Say what of an image is lost when it is read with 1 (grey) or 3 (RGB) channels."""
    losses = {
        "is in colour, and is read as grey": channels == 1 and not kind.grey,
        "is transparent, which is left out": kind.transparent,
        "holds several pictures, of which the first is read": kind.animated,
    }
    return [loss for loss, is_so in losses.items() if is_so]


def read_image(file: Path, channels: int | None = None, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image as (C, H, W) uint8, turned as its EXIF orientation says; transparency is left out.

    Args:
        file: in any format that Pillow reads; of 16 bits a pixel, 65535 becomes 255.
        channels: 1 (grey) or 3 (RGB); as in the file where None.
        size: (height, width) to resize to, bilinear; as in the file where None.

    Raises:
        UserError: there is no such file, it is no image, or its scale is unknown.
    """
    try:
        with open_file(file) as opened, Image.open(opened) as raw:
            if raw.width * raw.height > MAX_PIXELS:
                raise ValueError(f"{raw.width}×{raw.height} pixels are more than the {MAX_PIXELS:,} that are read")
            return pixels_of(raw, channels, size)
    except Exception as error:
        raise _unreadable(file, error) from error


def pixels_of(raw: Image.Image, channels: int | None = None, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """See `read_image`, of an image that Pillow has opened.

    Raises:
        ValueError: its scale is unknown.
        OSError: its pixels cannot be decoded.
    """
    image = _eight_bits(ImageOps.exif_transpose(raw), _is_sixteen_bits(raw))
    grey = channels == 1 or (channels is None and image.mode in GREY)
    image = image.convert("L" if grey else "RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _is_sixteen_bits(image: Image.Image) -> bool:
    """Pillow opens a PGM of 9 to 16 bits as one of 32, scaled to 65535, and older ones a PNG of 16 bits, too."""
    return image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _eight_bits(image: Image.Image, sixteen_bits: bool) -> Image.Image:
    if sixteen_bits:
        return Image.fromarray(((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise ValueError(f"its pixels are {kind}, and nothing tells which value is white; save it with 8 or 16 bits")
    return image


def _unreadable(file: Path, error: Exception) -> UserError:
    """Pillow's decoders raise any kind of error on a damaged file."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{file}: there is no such file")
    reason = f"{type(error).__name__}" if not str(error) else " ".join(str(error).split())
    if "cannot identify" in reason:
        reason = "no format that Pillow knows"
    return UserError(f"{file}: is no readable image: {reason}")
