"""From what the rays meet to pictures: three soft lamps, their shadows, matte surfaces.

Lambert's law with a weak highlight (Blinn 1977); light is summed in linear values, averaged over
the rays of a pixel and only then brought to sRGB.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sources.clevr.geometry import (
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

ALBEDO = (
    torch.tensor(  # of COLOURS: CLEVR's bytes, which it takes as linear; here a little deeper
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
    )
    .div(255)
    .pow(1.3)
)
GROUND = 0.42
SUPERSAMPLING = 2  # rays a pixel, in each direction
SAMPLES = 5  # points of a lamp that a ray looks at; the 4 rays of a pixel look at different ones

POWER = torch.tensor([0.66, 0.08, 0.11])  # of the key, fill and back lamp, at the origin
RADIUS = torch.tensor([1.0, 1.4, 0.9])  # of the lamps
AMBIENT = 0.15
SHININESS = 24.0


def render(scenes: Scenes, size: int = 64) -> Tensor:
    """Pictures (N, 3, size, size) uint8."""
    side = size * SUPERSAMPLING
    rays = camera_rays(scenes, side)
    surface = cast(scenes, rays)
    light, highlight = illumination(scenes, surface, rays, side)
    linear = albedo(scenes, surface) * light + highlight
    linear = F.avg_pool2d(linear.view(3, -1, side, side).transpose(0, 1), SUPERSAMPLING)
    return to_srgb(linear * vignette(size)).mul_(255).round_().to(torch.uint8)


def albedo(scenes: Scenes, surface: Surface) -> Tensor:
    """(3, N, P)."""
    colours = scenes.labels.clamp_min(0) % len(COLOURS)
    palette = torch.cat((ALBEDO[colours], torch.full((len(colours), 1, 3), GROUND)), dim=1)
    chosen = surface.slot % palette.shape[1]  # the plane's -1 is the last
    rows = torch.arange(len(colours))[:, None]
    return palette.permute(2, 0, 1)[:, rows, chosen]


def illumination(
    scenes: Scenes, surface: Surface, rays: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """(N, P) each: what falls on a point, and what it mirrors of the lamps into the camera."""
    others = [Other.of(scenes, surface, k) for k in range(scenes.labels.shape[1])]
    light = AMBIENT * (0.65 + 0.35 * surface.normals[2]) * (1 - crowding(surface, others))
    gloss = torch.cat((scenes.gloss, torch.zeros(len(scenes.gloss), 1)), dim=1)
    gloss = gloss.gather(1, surface.slot % gloss.shape[1])
    rows, columns = gloss.nonzero(as_tuple=True)
    highlight = torch.zeros_like(light)
    for i, (power, radius) in enumerate(zip(POWER, RADIUS, strict=True)):
        lamp = Lamp.of(scenes, surface, i, radius)
        shown = power * length(lamp.middle) / lamp.distance  # weaker than a point's 1 / d^2
        for other in others:
            cast_shadow(scenes, surface, lamp, other, shown, side)
        slant = lamp.middle[2] / length(lamp.middle)
        light += shown * dot(surface.normals, lamp.way).clamp_min_(0) / slant
        half = (lamp.way - rays)[:, rows, columns]
        facing = (dot(surface.normals[:, rows, columns], half) / length(half)).clamp_min_(0)
        mirrored = shown[rows, columns] * gloss[rows, columns] * facing**SHININESS
        highlight[rows, columns] += mirrored
    return light, highlight


class Lamp(NamedTuple):
    """A disc that lies level, as seen from each point."""

    middle: Tensor  # (3, N, 1)
    radius: Tensor
    way: Tensor  # (3, N, P), unit directions to the middle
    distance: Tensor  # (N, P)

    @classmethod
    def of(cls, scenes: Scenes, surface: Surface, i: int, radius: Tensor) -> "Lamp":
        middle = scenes.lights[:, i].T[:, :, None]
        way = middle - surface.points
        distance = length(way)
        return cls(middle, radius, way.div_(distance), distance)


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
    return taken.clamp_(max=0.9)


def cast_shadow(
    scenes: Scenes, surface: Surface, lamp: Lamp, other: Other, shown: Tensor, side: int
) -> None:
    """Take from `shown` (N, P), in place, what the object hides of the lamp."""
    # A ray to the lamp's rim strays from that to its middle by less than the lamp's radius, in
    # proportion to how far along the object is.
    span = other.reach + (other.reach > 0) * lamp.radius * other.gap / lamp.distance
    close = passes(other.offset, other.squared, lamp.way, span) & (surface.slot != other.slot)
    rows, columns = close.nonzero(as_tuple=True)
    origin = surface.points[:, rows, columns]
    things, middle = objects(scenes, other.slot, rows), lamp.middle[:, rows, 0]
    ends = middle[:, None] + lamp.radius * lamp_points(columns, side)
    shown[rows, columns] *= 1 - hidden_share(things, origin, ends)


def lamp_points(columns: Tensor, side: int) -> Tensor:
    """(3, SAMPLES, K) in the unit disc: all rays of a pixel together cover it evenly.

    Vogel's spiral; the same for each pixel, so that there are steps of 1/20 but no noise.
    """
    s = SUPERSAMPLING
    n = torch.arange(SAMPLES * s * s)
    turn, radius = n * (math.pi * (3 - math.sqrt(5))), ((n + 0.5) / len(n)).sqrt()
    points = torch.stack((radius * turn.cos(), radius * turn.sin(), torch.zeros(len(n))))
    of_pixel = (columns // side) % s * s + columns % s  # which of its pixel's rays
    return points.view(3, SAMPLES, s * s)[..., of_pixel]


def vignette(size: int) -> Tensor:
    """(size, size): 1 in the middle, a little less in the corners."""
    steps = (2 * torch.arange(size) + 1) / size - 1
    return 1 - 0.08 * (steps[:, None] ** 2 + steps**2)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear [0, ...) -> [0, 1], as IEC 61966-2-1; what is too bright is clipped."""
    x = linear.clamp(0, 1)
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp_min(1e-9) ** (1 / 2.4) - 0.055)
