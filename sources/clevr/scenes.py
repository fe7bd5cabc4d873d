"""Draw scenes at random, with all objects apart and to be seen."""

from collections.abc import Sequence

import numpy as np
import torch

from lib.seeding import key_seed
from sources.clevr.geometry import LIGHTS, Scenes, visible_pixels
from sources.iclevr import COLOURS, LABELS, MOST_OBJECTS

CAMERA = (7.48, -6.51, 5.34)  # as CLEVR's
LIGHT_JITTER = 0.8
GROUND = 3.0  # objects' centres lie within this, along both axes; the first one's at the origin
WIDTHS = np.array([0.56, 0.58, 0.59])  # half those of a cube, a sphere, a cylinder
APART = 2.2  # at least, between the centres of two objects
LEAST_VISIBLE = 40  # pixels of 64 x 64


def draw_scene(labels: Sequence[str], *key: str | int) -> Scenes:
    """One scene with these objects; a function of the labels and the key."""
    rng = np.random.default_rng(key_seed("scene", *key))
    while True:
        scene = attempt(labels, rng)
        if apart(scene):
            visible = visible_pixels(scene)[0, : len(labels)]
            if (visible >= LEAST_VISIBLE).all():
                return scene


def attempt(labels: Sequence[str], rng: np.random.Generator) -> Scenes:
    """Whatever comes; empty slots are filled too, so that fewer objects leave the rest in place."""
    chosen = torch.full((1, MOST_OBJECTS), -1)
    chosen[0, : len(labels)] = torch.tensor([LABELS.index(label) for label in labels])
    widths = WIDTHS[chosen.clamp_min(0).numpy() // len(COLOURS)]
    places = rng.uniform(-GROUND, GROUND, (1, MOST_OBJECTS, 2))
    places[:, 0] = 0
    values = (
        np.array([CAMERA]),
        np.array([LIGHTS]) + rng.uniform(-LIGHT_JITTER, LIGHT_JITTER, (1, len(LIGHTS), 3)),
        np.concatenate((places, widths[..., None]), axis=2),  # resting on z = 0
        widths,
        rng.uniform(0, 2 * np.pi, (1, MOST_OBJECTS)),
    )
    grain = torch.from_numpy(rng.integers(2**62, size=1))
    return Scenes(*(torch.from_numpy(value).float() for value in values), grain, chosen)


def apart(scene: Scenes) -> bool:
    """True if no two of the objects are close to each other."""
    return bool((torch.pdist(scene.centres[0, scene.labels[0] >= 0, :2]) > APART).all())
