"""Find what rays meet in scenes of up to three cubes, spheres and cylinders on a plane.

Points and directions are tensors (3, ...), the plane is z = 0. An object's own frame has its centre
at 0, its axis along z, and its half width as the unit: there a cube is max|x_i| <= 1, a cylinder
x^2 + y^2 <= 1, |z| <= 1, a sphere |x| <= 1.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sources.iclevr import COLOURS

VIEW = (16 / 35, 12 / 35)  # tangents across and up: a 35 mm lens, 320x240 squeezed into a square
# The key, fill and back lamp; each shines towards the origin.
LIGHTS = ((6.18, -2.87, 3.87), (-4.45, -3.85, 3.10), (-1.49, 2.75, 4.96))
EDGE = 0.12  # of a half width: how far from an edge the normal begins to turn
REACH = torch.tensor([math.sqrt(3), 1.0, math.sqrt(2)])  # half widths from centre to farthest point


class Scenes(NamedTuple):
    """N scenes. labels (N, 3) are positions in LABELS, -1 where there is no object."""

    camera: Tensor  # (N, 3), looking at the origin
    lights: Tensor  # (N, L, 3), centres of the lamps
    centres: Tensor  # (N, 3, 3), of the objects
    widths: Tensor  # (N, 3), half of them
    angles: Tensor  # (N, 3), about the vertical axis, in radians
    grain: Tensor  # (N,) int64, seeds of the pictures' noise
    labels: Tensor

    def first(self, n: int) -> "Scenes":
        """The same without any but the first n objects."""
        labels = self.labels.clone()
        labels[:, n:] = -1
        return self._replace(labels=labels, grain=self.grain + n)

    @property
    def shapes(self) -> Tensor:
        """(N, 3): positions in SHAPES; of no meaning where there is no object."""
        return self.labels.clamp_min(0) // len(COLOURS)


class Objects(NamedTuple):
    """One object each for K rays: what it takes to go to its frame and back."""

    centre: Tensor  # (3, K)
    width: Tensor  # (K,)
    cos: Tensor
    sin: Tensor
    shape: Tensor

    def take(self, chosen: Tensor) -> "Objects":
        return Objects(*(column[..., chosen] for column in self))

    def to_frame(self, vectors: Tensor) -> Tensor:
        """Directions (3, K) in the objects' frames."""
        x, y, z = vectors
        turned = torch.stack((self.cos * x + self.sin * y, self.cos * y - self.sin * x, z))
        return turned / self.width

    def from_frame(self, vectors: Tensor) -> Tensor:
        """Directions (3, K) back, their length aside."""
        x, y, z = vectors
        return torch.stack((self.cos * x - self.sin * y, self.sin * x + self.cos * y, z))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(D, ...), (D, ...) -> (...). Several times as fast as a product and a sum over D."""
    total = a[0] * b[0]
    for u, v in zip(a[1:], b[1:], strict=True):
        total = torch.addcmul(total, u, v)
    return total


def length(vectors: Tensor) -> Tensor:
    """(D, ...) -> (...). Ten times as fast as `norm` over the first of the dimensions."""
    return dot(vectors, vectors).sqrt_()


def join(scenes: Sequence[Scenes]) -> Scenes:
    return Scenes(*(torch.cat(column) for column in zip(*scenes, strict=True)))


def objects(scenes: Scenes, slot: int, rows: Tensor) -> Objects:
    """The object in this slot of scene rows[k], for each k."""
    angle = scenes.angles[:, slot]
    columns = (scenes.widths[:, slot], angle.cos(), angle.sin(), scenes.shapes[:, slot])
    return Objects(scenes.centres[:, slot].T[:, rows], *(column[rows] for column in columns))


def reach(scenes: Scenes, slot: int) -> Tensor:
    """(N,) from the object's centre to its farthest point; below 0 where there is no object."""
    found = scenes.widths[:, slot] * REACH[scenes.shapes[:, slot]]
    return torch.where(scenes.labels[:, slot] >= 0, found, -torch.ones(()))


def camera_rays(scenes: Scenes, side: int) -> Tensor:
    """Unit directions (3, N, side * side) through the middles of the pixels, row by row."""
    forward = -F.normalize(scenes.camera, dim=1)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([[0.0, 0.0, 1.0]])), dim=1)
    up = torch.linalg.cross(right, forward)
    forward, right, up = (axis.T[:, :, None] for axis in (forward, right, up))
    steps = (2 * torch.arange(side) + 1) / side - 1
    y, x = (g.flatten() for g in torch.meshgrid(-steps, steps, indexing="ij"))
    rays = forward + VIEW[0] * x * right + VIEW[1] * y * up
    return rays / length(rays)


def passes(offset: Tensor, squared: Tensor, direction: Tensor, radius: Tensor) -> Tensor:
    """True if rays (unit directions) pass within `radius` of a point that lies before them.

    offset: from a ray's start to the point; squared: its square. Radius 0 is never near.
    """
    along = dot(offset, direction)
    return (squared - along * along < radius * radius.abs()) & (along > 0)


def hit_sphere(o: Tensor, v: Tensor) -> Tensor:
    a, b, c = dot(v, v), dot(o, v), dot(o, o) - 1
    root = (b * b - a * c).sqrt()  # nan: no hit
    return (-b - root) / a


def hit_cube(o: Tensor, v: Tensor) -> Tensor:
    """Kay & Kajiya 1986: the last of the slabs to be entered, if before the first is left."""
    a, b = (-1 - o) / v, (1 - o) / v
    enter, leave = torch.minimum(a, b).amax(0), torch.maximum(a, b).amin(0)
    return torch.where(enter < leave, enter, math.nan)


def hit_cylinder(o: Tensor, v: Tensor) -> Tensor:
    """The later of entering the round wall and entering the slab between the ends."""
    a, b, c = dot(v[:2], v[:2]), dot(o[:2], v[:2]), dot(o[:2], o[:2]) - 1
    a = a.clamp_min(1e-9)  # a ray along the axis is within the wall for ever, or never
    root = (b * b - a * c).sqrt()
    low, high = (-1 - o[2]) / v[2], (1 - o[2]) / v[2]
    enter = torch.maximum((-b - root) / a, torch.minimum(low, high))
    leave = torch.minimum((-b + root) / a, torch.maximum(low, high))
    return torch.where(enter < leave, enter, math.nan)


HITS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (hit_cube, hit_sphere, hit_cylinder)


def intersect(things: Objects, origin: Tensor, direction: Tensor) -> Tensor:
    """t (K,) where origin + t * direction enters the object; infinite where it never does."""
    ts = torch.full_like(origin[0], math.inf)
    for shape, hit in enumerate(HITS):
        chosen = (things.shape == shape).nonzero().flatten()
        some = things.take(chosen)
        o = some.to_frame(origin[:, chosen] - some.centre)
        ts[chosen] = hit(o, some.to_frame(direction[:, chosen])).nan_to_num_(math.inf)
    return ts


def hidden_share(things: Objects, origin: Tensor, ends: Tensor) -> Tensor:
    """(K,): which share of the ways from origin (3, K) to the ends (3, M, K) is barred."""
    share = torch.zeros_like(origin[0])
    for shape, hit in enumerate(HITS):
        chosen = (things.shape == shape).nonzero().flatten()
        some, start = things.take(chosen), origin[:, None, chosen]
        o = some.to_frame(start - some.centre[:, None])
        t = hit(o, some.to_frame(ends[..., chosen] - start))
        share[chosen] = ((t > 0) & (t < 1)).float().mean(0)
    return share


def normals(things: Objects, points: Tensor) -> Tensor:
    """Unit normals (3, K) at points on the objects; edges are as if rounded."""
    p = things.to_frame(points - things.centre)
    box = (p.abs() - (1 - EDGE)).clamp_min_(0) * p.sign()
    rho = length(p[:2]).clamp_min_(1e-6)
    round_wall = p[:2] / rho * (rho - (1 - EDGE)).clamp_min_(0)
    cylinder = torch.cat((round_wall, box[2:]))
    n = torch.where(things.shape == 0, box, torch.where(things.shape == 1, p, cylinder))
    n = things.from_frame(n)
    return n / length(n)


class Surface(NamedTuple):
    """The first thing that N x P rays meet. slot (N, P): -1 the plane, else which object."""

    points: Tensor  # (3, N, P)
    normals: Tensor  # (3, N, P)
    slot: Tensor


def cast(scenes: Scenes, rays: Tensor) -> Surface:
    """Follow rays (3, N, P) from the cameras, all of which must point down."""
    origin = scenes.camera.T[:, :, None]  # (3, N, 1)
    t = -origin[2] / rays[2]
    slot = torch.full(t.shape, -1)
    up = torch.zeros_like(rays)
    up[2] = 1
    for k in range(scenes.labels.shape[1]):
        offset = scenes.centres[:, k].T[:, :, None] - origin
        close = passes(offset, dot(offset, offset), rays, reach(scenes, k)[:, None])
        rows, columns = close.nonzero(as_tuple=True)
        things = objects(scenes, k, rows)
        o, v = scenes.camera.T[:, rows], rays[:, rows, columns]
        found = intersect(things, o, v)
        first = (found < t[rows, columns]).nonzero().flatten()
        things = things.take(first)
        rows, columns, found = rows[first], columns[first], found[first]
        t[rows, columns], slot[rows, columns] = found, k
        up[:, rows, columns] = normals(things, o[:, first] + found * v[:, first])
    return Surface(origin + t * rays, up, slot)


def visible_pixels(scenes: Scenes, side: int = 64) -> Tensor:
    """(N, 3): how many of the pixels' middles show each object."""
    slot = cast(scenes, camera_rays(scenes, side)).slot
    return torch.stack([(slot == k).sum(1) for k in range(scenes.labels.shape[1])], dim=1)
