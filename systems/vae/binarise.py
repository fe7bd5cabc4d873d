"""Take an image's pixels as grey values, or as bits drawn from them.

grey         values in [0, 1] as they are
static       each pixel white with its value as probability, drawn once for all runs
stochastic   drawn anew each step, a function of (seed, step); test images as in static
"""

import torch
from torch import Tensor

from lib.seeding import generator

PIXELS = ("grey", "static", "stochastic")
CHUNK = 1000  # images drawn at once


def statically_binarised(images: Tensor, split: str) -> Tensor:
    """uint8 (N, C, S, S) -> uint8 0 or 255 on the same device.

    What image i becomes is a function of (split, i) and of its pixels: not of a run's seed, so that
    scores on binarised images compare.
    """
    chunks = []
    for i, chunk in enumerate(images.split(CHUNK)):
        noise = torch.rand(chunk.shape, generator=generator("cpu", "binarised", split, i))
        chunks.append((noise.to(chunk.device) < chunk.float() / 255).byte() * 255)
    return torch.cat(chunks)
