"""The feature extractor of FID: `load_inception` finds the weights and builds the network."""

from pathlib import Path

import torch
from torch import nn


def load_inception(
    device: str | torch.device = "cpu", precision: str = "fp32", weights: str | Path | None = None
) -> nn.Module:
    """The 2015 Inception-v3 of FID on device, ready to be called on batches of images.

    precision "fp32" or "bf16"; weights: a state dict file to use instead of the published weights.
    Fetches on first use (80 to 96 MB). Raises UserError when no weights are to be had.
    """
    from inception.network import InceptionV3  # here: torchvision's models slow every start
    from inception.weights import digest, find_weights

    network = InceptionV3(precision)
    state = find_weights(weights)
    network.load_trained(state)
    network.digest = digest(state)
    return network.to(device)
