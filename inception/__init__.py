"""The feature extractor of FID: `load_inception` finds the weights and builds the network."""

from pathlib import Path

import torch

from inception.network import InceptionV3
from inception.weights import WEIGHTS_DIGEST, digest, find_weights

__all__ = ["WEIGHTS_DIGEST", "InceptionV3", "load_inception"]


def load_inception(
    device: str | torch.device = "cpu", precision: str = "fp32", weights: str | Path | None = None
) -> InceptionV3:
    """The 2015 Inception-v3 of FID on device, ready to be called on batches of images.

    precision "fp32" or "bf16"; weights: a state dict file to use instead of the published weights.
    Fetches on first use (90 MB). Raises UserError when no weights are to be had.
    """
    network = InceptionV3(precision)
    state = find_weights(weights)
    network.load_trained(state)
    network.digest = digest(state)
    return network.to(device)
