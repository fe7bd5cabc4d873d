"""Differentiable augmentation of all that D sees, so that it can't learn few images by heart.

D judges T(x) and T(G(z)), in its own update and in G's, and the gradient reaches G through T.
"mirror": half of the images with left and right changed over. "diffaug": DiffAugment, Zhao et al.
2020 (arXiv:2006.10738), eqs. 4 to 6: colour, translation and cutout in turn, drawn for each image,
by the amounts of the paper's appendix.

Images are float in [-1, 1], so that the zero which fills what was moved or cut is mid-grey, and
what comes out may lie beyond: nothing is clipped, which would take the gradient away.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lib.seeding import stream

SHIFT = 1 / 8  # of the image's side, at most
CUT = 1 / 2  # of it: the side of the square that is cut out

AUGMENTATIONS = ("none", "mirror", "diffaug")


class Draws(NamedTuple):
    """The draws for each of N images."""

    brightness: Tensor  # (N,) in [-1/2, 1/2), added
    saturation: Tensor  # (N,) in [0, 2), factor
    contrast: Tensor  # (N,) in [1/2, 3/2), factor
    shift: Tensor  # (N, 2) whole pixels down and to the right
    centre: Tensor  # (N, 2) of the square that is cut out: pixels above it and to its left, 0 to S


class Augment:
    """augment(images, purpose, index) -> the same images as D sees them; a function of these alone.

    purpose tells apart the batches of one update: real, fake, and those that G learns from.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed

    def __call__(self, images: Tensor, purpose: str, index: int) -> Tensor:
        if self.name == "none":
            return images
        draws = stream(images.device, "augment", purpose, self.seed, index)
        if self.name == "mirror":
            return mirror(images, draws)
        return diffaug(images, draw(len(images), images.shape[-1], draws, images.device))


def draw(n: int, size: int, stream: torch.Generator, device: torch.device | str) -> Draws:
    """For n images of size x size, uniformly."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=stream, device=device)

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (n, 2), generator=stream, device=device)

    most = round(SHIFT * size)
    return Draws(
        brightness=uniform(n) - 0.5,
        saturation=2 * uniform(n),
        contrast=uniform(n) + 0.5,
        shift=whole(-most, most),
        centre=whole(0, size),
    )


def diffaug(x: Tensor, draws: Draws) -> Tensor:
    """x (N, C, S, S) -> the same shape."""
    brightness, saturation, contrast = (values.view(-1, 1, 1, 1) for values in draws[:3])
    x = x + brightness
    if x.shape[1] > 1:  # a grey image has no colour to saturate
        grey = x.mean(1, keepdim=True)  # of each pixel
        x = grey + saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + contrast * (x - mean)
    x = translate(x, draws.shift)
    return cut_out(x, draws.centre, side=round(CUT * x.shape[-1]))


def mirror(x: Tensor, stream: torch.Generator) -> Tensor:
    """x (N, C, S, S) -> the same, each image mirrored with probability 1/2.

    D can't tell a mirrored scene from one as it was, so that G may make both.
    """
    mirrored = torch.rand(len(x), 1, 1, 1, generator=stream, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(3), x)


def translate(x: Tensor, shift: Tensor) -> Tensor:
    """Moved by shift (N, 2) pixels down and to the right; zeros come in from outside."""
    side = x.shape[-1]
    sources = torch.arange(side, device=x.device) - shift[:, :, None]  # (N, 2, S)
    rows, columns = sources.clamp(0, side - 1).unbind(1)
    x = x.gather(2, rows[:, None, :, None].expand_as(x))
    x = x.gather(3, columns[:, None, None, :].expand_as(x))
    above, beside = ((sources < 0) | (sources >= side)).unbind(1)
    return x.masked_fill((above[:, :, None] | beside[:, None, :])[:, None], 0.0)


def cut_out(x: Tensor, centre: Tensor, *, side: int) -> Tensor:
    """Zeros in rows centre - side / 2 to centre + side / 2, and in such columns; side is even.

    centre (N, 2) may lie at the border: then only part of the square is there to be cut out
    (DeVries & Taylor 2017).
    """
    first = centre[:, :, None] - side // 2
    places = torch.arange(x.shape[-1], device=x.device)
    rows, columns = ((places >= first) & (places < first + side)).unbind(1)  # (N, S) each
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
