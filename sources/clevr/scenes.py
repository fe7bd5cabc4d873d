"""Where things lie: scenes drawn at random, with all objects apart, in view, and to be seen."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.seeding import key_seed
from sources.clevr.geometry import Scenes, project, visible_pixels
from sources.iclevr import LABELS, MOST_OBJECTS

CAMERA, CAMERA_JITTER = (7.48, -6.50, 5.34), 0.5  # as CLEVR's
TARGET, TARGET_JITTER = (0.0, 0.0, 0.3), 0.15
LIGHTS, LIGHT_JITTER = ((5.5, -7.5, 9.0), (-7.5, -4.5, 7.0), (-2.0, 6.5, 7.5)), 1.0
GROUND = 2.4  # objects' centres lie within this, along both axes
WIDTHS = (0.78, 0.86)  # half widths of spheres and cylinders
CUBE = 0.8  # a cube's half width beside theirs; its corners reach farther
GAP = 0.3  # between what two objects reach
MARGIN = 0.96  # of the picture's half side: nothing beyond
LEAST_VISIBLE = 60  # pixels of 64 x 64


def draw_scene(labels: Sequence[str], *key: str | int) -> Scenes:
    """One scene with these objects; a function of the labels and the key."""
    rng = np.random.default_rng(key_seed("scene", *key))
    while True:
        scene = attempt(labels, rng)
        if in_view(scene) and apart(scene):
            visible = visible_pixels(scene)[0, : len(labels)]
            if (visible >= LEAST_VISIBLE).all():
                return scene


def attempt(labels: Sequence[str], rng: np.random.Generator) -> Scenes:
    """Whatever comes; empty slots are filled too, so that fewer objects leave the rest in place."""
    chosen = torch.full((1, MOST_OBJECTS), -1)
    chosen[0, : len(labels)] = torch.tensor([LABELS.index(label) for label in labels])
    widths = rng.uniform(*WIDTHS, (1, MOST_OBJECTS))
    is_cube = (chosen.numpy() >= 0) & (chosen.numpy() < len(LABELS) // 3)
    widths = np.where(is_cube, CUBE * widths, widths)
    places = rng.uniform(-GROUND, GROUND, (1, MOST_OBJECTS, 2))
    values = (
        np.array([CAMERA]) + rng.uniform(-CAMERA_JITTER, CAMERA_JITTER, (1, 3)),
        np.array([TARGET]) + rng.uniform(-TARGET_JITTER, TARGET_JITTER, (1, 3)),
        np.array([LIGHTS]) + rng.uniform(-LIGHT_JITTER, LIGHT_JITTER, (1, len(LIGHTS), 3)),
        np.concatenate((places, widths[..., None]), axis=2),  # resting on z = 0
        widths,
        rng.uniform(0, 2 * np.pi, (1, MOST_OBJECTS)),
        rng.uniform(0.02, 0.20, (1, MOST_OBJECTS)),
    )
    return Scenes(*(torch.from_numpy(value).float() for value in values), chosen)


def apart(scene: Scenes) -> bool:
    """Whether the objects' circles on the ground keep the gap."""
    here = scene.labels[0] >= 0
    places, circles = scene.centres[0, here, :2], ground_circles(scene)[0, here]
    distances = torch.cdist(places, places) + 1e3 * torch.eye(len(places))
    return bool((distances > circles[:, None] + circles + GAP).all())


def ground_circles(scene: Scenes) -> Tensor:
    """(N, 3): radii of circles on the ground that hold the objects."""
    return torch.where(scene.shapes == 0, 2**0.5 * scene.widths, scene.widths)


def in_view(scene: Scenes) -> bool:
    """Whether boxes around the objects are in the picture, wholly."""
    here = scene.labels[0] >= 0
    half = torch.stack([ground_circles(scene)[0, here]] * 2 + [scene.widths[0, here]], dim=1)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)  # (8, 3)
    corners = scene.centres[0, here, None] + half[:, None] * signs
    return bool((project(scene, corners.view(1, -1, 3)).abs() < MARGIN).all())
