"""One image file, whatever its format -> a square of bytes; and resizing of many at once."""

import io
import warnings
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from lib.errors import UserError

GREY_MODES = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L"}  # of Pillow: no colour in them
ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
DEEP_MODES = {"I", "I;16", "I;16B", "I;16L"}  # 16 bits a pixel; "I" is how older Pillows read them
ROUNDING = 2  # of 255: by so much a profile of sRGB's own may move a value
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # EPS would start Ghostscript


class TooSmall(Exception):
    """An image with fewer pixels a side than asked for."""


def reason(problem: Exception) -> str:
    """Why a file can't be read, in a few words."""
    if isinstance(problem, UnidentifiedImageError):  # which names a buffer of ours
        return "no image that Pillow reads"
    return " ".join(str(problem).split())[:80] or type(problem).__name__


class Whole(NamedTuple):
    """pixels (3, H, W) uint8; if any of the file's is transparent; if its EXIF turns it."""

    pixels: np.ndarray
    transparent: bool
    turned: bool


class Picture(NamedTuple):
    """pixels (3, S, S) uint8; width x height of the file; whether no pixel has a colour."""

    pixels: np.ndarray
    width: int
    height: int
    grey: bool


def opened(data: bytes) -> Image.Image:
    """An image file, unread as yet; one of several frames, such as an animation, is told of."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a phone's photo and its depth
        warnings.warn("of a picture with several frames or pages the first is read", stacklevel=2)
    return image


def decode(data: bytes, size: int, *, upscale: bool = False, whole: bool = False) -> Picture:
    """The middle square of an image file at size x size: bilinear, antialiased when it shrinks.

    whole: all of the image instead, its sides brought to one length. Turned upright by its EXIF,
    palettes looked up, transparency composited on white, 16 bits brought to 8, CMYK to RGB. Raises
    TooSmall, or whatever Pillow raises on a broken file.
    """
    with opened(data) as image:
        width, height = image.size
        if min(width, height) < size and not upscale:
            raise TooSmall(f"{width}x{height}")
        image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at 1/2 to 1/8 where that does
        image = to_rgb(ImageOps.exif_transpose(image))
    to_size = image.resize if whole else partial(ImageOps.fit, image)
    square = to_size((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(square).transpose(2, 0, 1)
    return Picture(pixels, width, height, bool((pixels == pixels[:1]).all()))


def decode_named(data: bytes, name: str, size: int, **options: bool) -> np.ndarray:
    """`decode` -> pixels (C, size, size). Raises UserError with the name for a broken file."""
    try:
        return decode(data, size, **options).pixels
    except Exception as error:  # Pillow raises anything at a damaged file
        raise UserError(f"{name} can't be read as an image: {reason(error)}.") from None


def decode_whole(data: bytes, *, as_stored: bool = False) -> Whole:
    """All of an image file at its own size, read as `decode` does.

    as_stored: neither turned nor composited on white, as pytorch-fid has it.
    """
    with opened(data) as image:
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        made = to_rgb(image if as_stored else ImageOps.exif_transpose(image), opaque=as_stored)
        return Whole(np.array(made).transpose(2, 0, 1), is_transparent(image), turned)


def is_grey(data: bytes, size: int) -> bool:
    """True if an image file has no colour; decoded only if its header does not say."""
    with opened(data) as image:
        if image.mode in GREY_MODES:
            return True
    return decode(data, size, upscale=True).grey


def to_rgb(image: Image.Image, *, opaque: bool = False) -> Image.Image:
    """Any mode of Pillow -> RGB of 8 bits in sRGB, transparency on white or (opaque) ignored."""
    if image.mode == "F":
        raise ValueError("pixels are floats of no known range")
    image = to_srgb(to_8_bits(image))
    if has_alpha(image):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = image if opaque else Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits a pixel becomes L, or LA if one of its values is declared transparent."""
    if image.mode not in DEEP_MODES:
        return image
    values, clear = np.asarray(image), image.info.get("transparency")
    grey = Image.fromarray(eight_bits(values))
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    grey.info["icc_profile"] = image.info.get("icc_profile")
    return grey


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert from the colour profile in the file, if it is another; a damaged one is ignored."""
    if not (profile := image.info.get("icc_profile")):
        return image
    if has_alpha(image):
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        made = ImageCms.profileToProfile(image, profile, srgb, outputMode=mode)
    except (ImageCms.PyCMSError, OSError):  # or the profile of another kind of pixels
        return image
    change = ImageChops.difference(made.convert("RGB"), image.convert("RGB")).getextrema()
    if max(most for _, most in change) <= ROUNDING:
        return image
    return made.convert("L") if image.mode == "L" else made


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ALPHA_MODES or "transparency" in image.info


def is_transparent(image: Image.Image) -> bool:
    """True if `to_rgb` lets the ground through at some pixel."""
    image = to_8_bits(image)
    return has_alpha(image) and image.convert("RGBA").getextrema()[3][0] < 255


def eight_bits(values: np.ndarray) -> np.ndarray:
    """[0, 65535] -> uint8 [0, 255], rounded; Pillow's own conversion clips at 255."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("pixels have more than 16 bits")
    if values.itemsize > 2 and 0 < values.max() <= 255:
        raise ValueError("pixels of 32 bits, none above 255: of no known range")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, size, size); bilinear, antialiased when it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    shrinks = size < max(images.shape[-2:])
    chunks = (
        F.interpolate(chunk.float(), (size, size), mode="bilinear", antialias=shrinks)
        for chunk in images.split(5000)
    )
    return torch.cat([chunk.round_().clamp_(0, 255).to(torch.uint8) for chunk in chunks])
