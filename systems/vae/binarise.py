"""What the autoencoder takes an image's pixels to be: grey values, or bits drawn from them.

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
    chunks = [
        binarised(chunk.float() / 255, generator("cpu", "binarised", split, i)).byte() * 255
        for i, chunk in enumerate(images.split(CHUNK))
    ]
    return torch.cat(chunks)


def binarised(x: Tensor, stream: torch.Generator) -> Tensor:
    """x in [0, 1] -> 0.0 or 1.0, one with probability x."""
    noise = torch.rand(x.shape, generator=stream, device=stream.device)
    return (noise.to(x.device) < x).float()
