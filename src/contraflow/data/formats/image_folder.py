"""Image files and folders of them."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from contraflow.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# pillow tells formats by content, not by suffix, and hands PostScript, whatever it is called, to Ghostscript to run
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# a blank picture in the tightest of these formats; a header that claims more is false
_PIXELS_A_BYTE = 10_000
# what pillow calls colour of 16 bits a channel, of which it keeps the upper 8 without a word
_DEEP_LAYOUT = re.compile(r";16[BLN]")
_SAMPLE_FORMAT, _UNSIGNED = 339, 1  # tag of TIFF, and its value for unsigned whole numbers
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def read_image_folder(
    folder: str | os.PathLike[str], *, size: int | tuple[int, int] | None = None, grey: bool = False
) -> Tensor:
    """Every image below a folder, in the order of their paths.

    Args:
        folder: searched with its subfolders; files with other suffixes are passed over.
        size: height and width in pixels, or one number for both: the largest rectangle of that shape at the centre of
            each image is cut out and scaled; None keeps all as they are.
        grey: one channel instead of red, green, blue. Transparency is dropped.

    Returns:
        uint8 ``(n, C, H, W)``.

    Raises:
        DataError: no image, a file that cannot be read, more than 8 bits a channel, numbers with a sign, several
            frames, or differing sizes.
        ConfigurationError: size is not positive.
    """
    folder = Path(folder)
    if isinstance(size, int):
        size = (size, size)
    if size is not None and min(size) < 1:
        raise ConfigurationError(f"size must be at least 1 pixel, got {' × '.join(map(str, size))}.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{folder}: no image file found; looked for {', '.join(sorted(_SUFFIXES))}.")
    images: list[np.ndarray] = []
    for path in files:
        pixels = read_image(path, path.stat().st_size, str(path), size=size, grey=grey)
        if images and pixels.shape != images[0].shape:
            raise DataError(
                f"{path}: {pixels.shape[2]} × {pixels.shape[1]} pixels, but {files[0]} has {images[0].shape[2]} × "
                f"{images[0].shape[1]}. Give size= to crop and scale all to one size."
            )
        images.append(pixels)
    return torch.from_numpy(np.stack(images))


def read_image(
    file: Path | BinaryIO, length: int, source: str, *, size: tuple[int, int] | None = None, grey: bool = False
) -> np.ndarray:
    """One image.

    Args:
        file: its path, or a stream that holds it.
        length: its bytes.
        source: what errors call it.
        size: height and width; see `read_image_folder`.
        grey: see `read_image_folder`.

    Returns:
        uint8 ``(C, H, W)``.

    Raises:
        DataError: cannot be read, more than 8 bits a channel, numbers with a sign, or several frames.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # pillow only warns of an image whose header claims an absurd number of pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as opened:
                _refuse_what_would_be_lost(opened, source)
                if opened.width * opened.height > _PIXELS_A_BYTE * length:
                    raise DataError(
                        f"{source}: claims {opened.width} × {opened.height} pixels, which a file of "
                        f"{length} bytes cannot hold."
                    )
                image = ImageOps.exif_transpose(opened).convert("L" if grey else "RGB")
        if size is not None:
            image = ImageOps.fit(image, size[::-1], method=Image.Resampling.LANCZOS)
    except DataError:
        raise
    except UnidentifiedImageError as error:  # which names a stream by its address in memory
        raise DataError(f"{source}: cannot be read as an image; it is none of {', '.join(_FORMATS)}.") from error
    except Exception as error:  # each of pillow's formats has errors of its own
        raise DataError(f"{source}: cannot be read as an image ({type(error).__name__}: {error}).") from error
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def _refuse_what_would_be_lost(opened: ImageFile, source: str) -> None:
    """Nothing for an image that fits into uint8 without loss."""
    # the arguments of its decoder: the layout of the file's channels, and for PNM the largest number
    arguments = [
        argument for tile in opened.tile for argument in (tile.args if isinstance(tile.args, tuple) else (tile.args,))
    ]
    deep = any(isinstance(argument, str) and _DEEP_LAYOUT.search(argument) for argument in arguments)
    largest = max(number for number in (*arguments, 0) if isinstance(number, int)) if opened.format == "PPM" else 0
    if deep or largest > 255 or opened.mode.startswith(("I", "F")):
        raise DataError(
            f"{source}: more than 8 bits a channel ({opened.format}, mode {opened.mode}). Convert it to 8 bits."
        )
    formats = getattr(opened, "tag_v2", {}).get(_SAMPLE_FORMAT, (_UNSIGNED,))
    if any(sample_format != _UNSIGNED for sample_format in formats):
        raise DataError(f"{source}: its channels are no unsigned whole numbers. Convert it to 8 bits without a sign.")
    # a photograph in an MPO file has previews or depth maps behind it
    frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
    if frames > 1:
        raise DataError(f"{source}: holds {frames} frames, and a sample is one image. Save the frames as files.")
