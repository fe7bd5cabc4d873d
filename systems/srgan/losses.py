"""Distances to the true image, which G minimises beside the adversarial loss."""

import torch
import torch.nn.functional as F
from torch import Tensor


def squared(fake: Tensor, x: Tensor) -> Tensor:
    """Mean over images of the sum over an image's values, taken in [0, 1], of (x - fake)^2.

    A sum over pixels, as in our VAE: the course names a Euclidean distance, and no scale.
    """
    return ((x - fake) / 2).square().flatten(1).sum(1).mean()


def euclidean(fake: Tensor, x: Tensor) -> Tensor:
    """Mean over images of |x - fake|_2, over all values of an image, in [-1, 1]."""
    return torch.linalg.vector_norm((x - fake).flatten(1), dim=1).mean()


# --reconstruction; fake and x in [-1, 1]
RECONSTRUCTIONS = {"squared": squared, "euclidean": euclidean, "mse": F.mse_loss, "l1": F.l1_loss}
