"""From what the rays meet to pictures: three soft lamps, their shadows, matte surfaces.

Lambert's law in linear values, brought to sRGB, then shrunk.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sources.clevr.geometry import (
    LIGHTS,
    Scenes,
    Surface,
    camera_rays,
    cast,
    dot,
    hidden_share,
    length,
    objects,
    passes,
    reach,
)
from sources.iclevr import COLOURS

ALBEDO = torch.tensor(  # of COLOURS: CLEVR's bytes, which it takes as linear
    [
        [87, 87, 87],
        [173, 35, 35],
        [42, 75, 215],
        [29, 105, 20],
        [129, 74, 25],
        [129, 38, 192],
        [41, 208, 208],
        [255, 238, 51],
    ]
).div(255)
GROUND = 0.83
SUPERSAMPLING = 2  # rays a pixel, in each direction
SAMPLES = 5  # points of a lamp that a ray looks at; the 4 rays of a pixel look at different ones

# The key, fill and back lamp in RGB, fitted as AMBIENT to the ground of 64 of the course's pictures
POWER = torch.tensor([[4.41, 4.08, 3.52], [1.16, 1.25, 1.55], [2.22, 2.19, 2.16]]).div(GROUND)
AMBIENT = 0.137 / GROUND
RADIUS = 0.4  # of the lamps
GRAIN = 0.38  # sd in bytes, before rounding: fitted to the same pictures


def render(scenes: Scenes, size: int = 64) -> Tensor:
    """Pictures (N, 3, size, size) uint8."""
    side = size * SUPERSAMPLING
    rays = camera_rays(scenes, side)
    surface = cast(scenes, rays)
    linear = albedo(scenes, surface) * illumination(scenes, surface, side)
    fine = to_srgb(linear).view(3, -1, side, side).transpose(0, 1)
    pictures = shrink(fine).mul_(255)
    for picture, seed in zip(pictures, scenes.grain.tolist(), strict=True):
        noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
        picture.add_(noise, alpha=GRAIN)
    return pictures.round_().clamp_(0, 255).to(torch.uint8)


def shrink(fine: Tensor) -> Tensor:
    """Half the size by a triangle two pixels wide, as the course's loader shrinks 320x240."""
    return F.avg_pool2d(F.avg_pool2d(F.pad(fine, (1, 1, 1, 1), mode="replicate"), 2, 1), 2)


def albedo(scenes: Scenes, surface: Surface) -> Tensor:
    """(3, N, P)."""
    colours = scenes.labels.clamp_min(0) % len(COLOURS)
    palette = torch.cat((ALBEDO[colours], torch.full((len(colours), 1, 3), GROUND)), dim=1)
    chosen = surface.slot % palette.shape[1]  # the plane's -1 is the last
    rows = torch.arange(len(colours))[:, None]
    return palette.permute(2, 0, 1)[:, rows, chosen]


def illumination(scenes: Scenes, surface: Surface, side: int) -> Tensor:
    """(3, N, P): red, green and blue light that falls on each point."""
    others = [Other.of(scenes, surface, k) for k in range(scenes.labels.shape[1])]
    sky = AMBIENT * (1 - crowding(surface, others))
    light = sky.expand(3, -1, -1).clone()
    for i, power in enumerate(POWER):
        lamp = Lamp.of(scenes, surface, i)
        shown = lamp.facing / lamp.distance**2
        shown *= dot(surface.normals, lamp.way).clamp_min_(0)
        for other in others:
            cast_shadow(scenes, surface, lamp, other, shown, side)
        light += power[:, None, None] * shown
    return light


class Lamp(NamedTuple):
    """A ball as seen from each point; it shines to one side, as an area lamp of CLEVR does."""

    middle: Tensor  # (3, N, 1)
    way: Tensor  # (3, N, P), unit directions to the middle
    distance: Tensor  # (N, P)
    facing: Tensor  # (N, P), cosine between where it shines and the point

    @classmethod
    def of(cls, scenes: Scenes, surface: Surface, i: int) -> "Lamp":
        middle = scenes.lights[:, i].T[:, :, None]
        way = middle - surface.points
        distance = length(way)
        way.div_(distance)
        aim = F.normalize(torch.tensor(LIGHTS[i]), dim=0)[:, None, None]
        return cls(middle, way, distance, dot(aim, way).clamp_min_(0))


class Other(NamedTuple):
    """The objects in one slot, as seen from each point."""

    slot: int
    offset: Tensor  # (3, N, P), to the centre
    squared: Tensor  # (N, P), its square
    gap: Tensor  # (N, P), its length
    width: Tensor  # (N, 1), and 0 where there is no object
    reach: Tensor  # (N, 1), and 0 where there is no object

    @classmethod
    def of(cls, scenes: Scenes, surface: Surface, slot: int) -> "Other":
        offset = scenes.centres[:, slot].T[:, :, None] - surface.points
        squared = dot(offset, offset)
        there = scenes.labels[:, slot : slot + 1] >= 0
        width, far = scenes.widths[:, slot : slot + 1], reach(scenes, slot)[:, None]
        return cls(slot, offset, squared, squared.sqrt(), there * width, there * far)


def crowding(surface: Surface, others: list[Other]) -> Tensor:
    """(N, P): the share of the sky that other objects take, each as the sphere in its place."""
    taken = torch.zeros_like(surface.points[0])
    for other in others:
        cosine = (dot(other.offset, surface.normals) / other.gap).clamp_min_(0)
        share = cosine * other.width**2 / other.squared
        taken += share * (surface.slot != other.slot)
    return taken.mul_(0.7).clamp_(max=0.7)


def cast_shadow(
    scenes: Scenes, surface: Surface, lamp: Lamp, other: Other, shown: Tensor, side: int
) -> None:
    """Take from `shown` (N, P), in place, what the object hides of the lamp."""
    # A ray to the lamp's rim strays from that to its middle by less than the lamp's radius, in
    # proportion to how far along the object is.
    span = other.reach + (other.reach > 0) * RADIUS * other.gap / lamp.distance
    close = passes(other.offset, other.squared, lamp.way, span) & (surface.slot != other.slot)
    rows, columns = close.nonzero(as_tuple=True)
    origin = surface.points[:, rows, columns]
    things, middle = objects(scenes, other.slot, rows), lamp.middle[:, rows, 0]
    ends = middle[:, None] + RADIUS * lamp_points(columns, side)
    shown[rows, columns] *= 1 - hidden_share(things, origin, ends)


def lamp_points(columns: Tensor, side: int) -> Tensor:
    """(3, SAMPLES, K) on the unit ball: all rays of a pixel together cover it evenly.

    Vogel's spiral; the same for each pixel, so that there are steps of 1/20 but no noise.
    """
    s = SUPERSAMPLING
    n = torch.arange(SAMPLES * s * s)
    turn, z = n * (math.pi * (3 - math.sqrt(5))), 1 - (2 * n + 1) / len(n)
    radius = (1 - z * z).sqrt()
    points = torch.stack((radius * turn.cos(), radius * turn.sin(), z))
    of_pixel = (columns // side) % s * s + columns % s  # which of its pixel's rays
    return points.view(3, SAMPLES, s * s)[..., of_pixel]


def to_srgb(linear: Tensor) -> Tensor:
    """Linear [0, ...) -> [0, 1], as IEC 61966-2-1; what is too bright is clipped."""
    x = linear.clamp(0, 1)
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp_min(1e-9) ** (1 / 2.4) - 0.055)
