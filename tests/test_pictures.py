"""One image file -> a square of bytes, whatever its format."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, UnidentifiedImageError

from sources.pictures import TooSmall, decode, eight_bits, is_grey, resize


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def swapped_profile() -> bytes:
    """An ICC profile like sRGB's in which red and blue change places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")  # in the table of tags
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def plain(colour, mode: str = "RGB", size=(16, 16)) -> Image.Image:
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (encoded(plain((200, 100, 50))), (200, 100, 50)),
        (encoded(plain((200, 100, 50)), "BMP"), (200, 100, 50)),
        (encoded(plain((200, 100, 50)), "WEBP", lossless=True), (200, 100, 50)),
        (encoded(plain((200, 100, 50)).quantize(4)), (200, 100, 50)),
        (encoded(plain(77, "L")), (77, 77, 77)),
        (encoded(plain(1, "1")), (255, 255, 255)),
        (encoded(plain((200, 100, 50, 0), "RGBA")), (255, 255, 255)),  # clear: the white ground
        (encoded(plain((0, 0, 0, 128), "RGBA")), (127, 127, 127)),
        (encoded(plain((60, 0), "LA")), (255, 255, 255)),
        (encoded(plain((9, 9, 9)).quantize(2), transparency=0), (255, 255, 255)),
        (encoded(Image.fromarray(np.full((16, 16), 257 * 90, np.uint16))), (90, 90, 90)),
        (encoded(plain(257 * 90, "I"), "TIFF"), (90, 90, 90)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb_of_8_bits(data, wanted):
    pixels, width, height, grey = decode(data, 16)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.uint8
    assert (width, height) == (16, 16)
    assert tuple(pixels[:, 8, 8].tolist()) == wanted
    assert grey == is_grey(data, 16) == (len(set(wanted)) == 1)


def test_cmyk_is_rgb_as_ink_on_paper():
    pixels = decode(encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG", quality=95), 16).pixels
    red, green, blue = pixels[:, 8, 8].tolist()
    assert red > 250
    assert max(green, blue) < 5


def test_16_bits_are_rounded_to_8_and_more_are_refused():
    values = np.array([0, 128, 129, 65535 - 128, 65535], np.uint16)
    assert eight_bits(values).tolist() == [0, 0, 1, 255, 255]
    with pytest.raises(ValueError, match="16 bits"):
        eight_bits(np.array([1 << 20], np.int32))
    with pytest.raises(ValueError, match="no known range"):  # 8 bits in 32: not all but black
        decode(encoded(plain(200, "I"), "TIFF"), 16)
    assert decode(encoded(plain(0, "I"), "TIFF"), 16).pixels.max() == 0
    with pytest.raises(ValueError, match="floats"):
        decode(encoded(plain(0.5, "F"), "TIFF"), 16)


def test_the_middle_square_is_taken():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = (1, 2, 3)
    found = decode(encoded(Image.fromarray(pixels)), 10)
    assert (found.pixels == np.array([1, 2, 3])[:, None, None]).all()
    assert (found.width, found.height) == (30, 10)


def test_exif_turns_the_image_upright():
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 255  # its upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = decode(encoded(Image.fromarray(pixels), exif=exif), 16).pixels[0]
    assert turned[0, 0] == 0
    assert turned[15, 0] == 255


def test_shrinking_is_antialiased_and_a_large_jpeg_keeps_its_mean():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert (
        abs(decode(encoded(Image.fromarray(stripes)), 16).pixels[:, 4:-4, 4:-4] - 127.5).max() < 2
    )
    noise = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
    small = decode(encoded(Image.fromarray(noise), "JPEG", quality=95), 16).pixels
    assert small.mean() == pytest.approx(noise.mean(), abs=1)


def test_small_images_are_enlarged_only_if_asked():
    data = encoded(plain((9, 8, 7), size=(20, 15)))
    with pytest.raises(TooSmall, match="20x15"):
        decode(data, 16)
    assert decode(data, 32, upscale=True).pixels.shape == (3, 32, 32)


@pytest.mark.parametrize("size", [32, 16, 64])
def test_resizing_tensors_is_pillows_bilinear(size):
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    ours = resize(torch.from_numpy(pixels)[None, None], size)[0, 0].numpy()
    theirs = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_first_of_several_frames_is_told_of_and_no_other_program_starts():
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for kind in ("WEBP", "TIFF", "MPO", "PNG"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            pixels = decode(encoded(red, kind, save_all=True, append_images=[blue]), 8).pixels
        assert np.abs(pixels[:, 0, 0].astype(int) - [255, 0, 0]).max() < 3
        assert len(told) == (kind != "MPO")
    with pytest.raises(UnidentifiedImageError):
        decode(encoded(red, "EPS"), 8)
