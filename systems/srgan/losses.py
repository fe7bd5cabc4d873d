"""What G minimises beside the adversarial loss: distances to the true image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.precision import Forward


def squared(fake: Tensor, x: Tensor) -> Tensor:
    """Mean over images of the sum over an image's values, taken in [0, 1], of (x - fake)^2.

    A sum over pixels, as our VAE has it (the course names a Euclidean distance, and no scale). Its
    gradient at an image 64x64 that is off by 0.1 everywhere has the norm 11, that of an adversarial
    loss is of order 1.
    """
    return ((x - fake) / 2).square().flatten(1).sum(1).mean()


def euclidean(fake: Tensor, x: Tensor) -> Tensor:
    """Mean over images of |x - fake|_2, over all values of an image, in [-1, 1].

    Its gradient has the norm 1 an image wherever it is; the mean over pixels of |x - fake| has
    0.009.
    """
    return torch.linalg.vector_norm((x - fake).flatten(1), dim=1).mean()


# --reconstruction; fake and x in [-1, 1]
RECONSTRUCTIONS = {"squared": squared, "euclidean": euclidean, "mse": F.mse_loss, "l1": F.l1_loss}


def difference(features: Forward, x: Tensor, fake: Tensor) -> Tensor:
    """|features(x) - features(fake)|, of which fake alone is to learn."""
    with torch.no_grad():
        wanted = features(x)
    return (features(fake) - wanted).abs()
