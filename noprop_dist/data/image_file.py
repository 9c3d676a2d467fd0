"""One image file as a uint8 array."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from noprop_dist.errors import UserError


def read_image(file: Path, channels: int | None = None, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image as (C, H, W) uint8.

    Args:
        file: in any format that Pillow reads.
        channels: 1 (grey) or 3 (RGB); None for those of the file.
        size: (height, width) to resize to, bilinear; None for that of the file.

    Raises:
        UserError: there is no such file, or it is no image.
    """
    try:
        with Image.open(file) as opened:
            grey = channels == 1 or (channels is None and opened.mode in ("1", "L", "I", "I;16", "F"))
            image = opened.convert("L" if grey else "RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"is no readable image: {error}"
        raise UserError(f"{file}: {reason}") from error
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
