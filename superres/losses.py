"""What G minimises beside the adversarial loss: distances to the true image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from modes import Forward


def euclidean(fake: Tensor, x: Tensor) -> Tensor:
    """Mean over images of |x - fake|_2, over all values of an image.

    Its gradient has the norm 1 an image wherever it is, as that of an adversarial loss is of order
    1, so that equal weights are of equal weight; the mean over pixels of |x - fake| has 0.009.
    """
    return torch.linalg.vector_norm((x - fake).flatten(1), dim=1).mean()


# --reconstruction; values in [-1, 1]
RECONSTRUCTIONS = {"euclidean": euclidean, "mse": F.mse_loss, "l1": F.l1_loss}


def difference(features: Forward, x: Tensor, fake: Tensor) -> Tensor:
    """|features(x) - features(fake)|, of which fake alone is to learn."""
    with torch.no_grad():
        wanted = features(x)
    return (features(fake) - wanted).abs()
