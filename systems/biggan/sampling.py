"""Draw what an image of a class is made of: z, plain or truncated, and which class when."""

import torch
from torch import Tensor, nn

from lib.seeding import generator


def draw(n: int, size: int, stream: torch.Generator, truncation: float = 0.0) -> Tensor:
    """z (n, size) ~ N(0, I); with a truncation t > 0, N(0, I) given that each |z_i| <= t.

    That is what redrawing each value outside until it is inside would give: the truncation trick
    (Brock et al. 2018, sec. 3.1), fewer kinds of images for better ones.
    """
    device = stream.device
    if not truncation:
        return torch.randn(n, size, generator=stream, device=device)
    z = torch.empty(n, size, device=device)
    return nn.init.trunc_normal_(z, a=-truncation, b=truncation, generator=stream)


def balanced(n: int, num_classes: int, *key: str | int) -> Tensor:
    """Classes (n,), each as often as any other or once more, in the order of the key."""
    order = torch.randperm(n, generator=generator("cpu", *key))
    return (torch.arange(n) % num_classes)[order]
