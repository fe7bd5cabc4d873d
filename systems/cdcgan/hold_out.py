"""Combinations of labels kept from training: can a model join what it has only seen apart?"""

import torch
from torch import Tensor

from dataset import ImageData
from lib.errors import UserError
from lib.seeding import generator


def chosen_combinations(labels: Tensor, share: float, seed: int) -> Tensor:
    """(K, L) of the different rows of labels (N, L), at random: a share of them."""
    combinations = labels.unique(dim=0)
    k = round(share * len(combinations))
    if share and not k:
        raise UserError(
            f"--hold_out {share} of {len(combinations)} combinations of labels is less than one:"
            " hold out more, or leave it out."
        )
    stream = generator("cpu", "hold out", seed)
    return combinations[torch.randperm(len(combinations), generator=stream)[:k]]


def without(data: ImageData, combinations: Tensor, share: float) -> ImageData:
    """The images that show none of the combinations (K, L). UserError: a label goes with them."""
    held = {tuple(row) for row in combinations.long().tolist()}
    kept = torch.tensor([tuple(row) not in held for row in data.labels.tolist()])
    labels = data.labels[kept.to(data.labels.device)]
    if not labels.any(0).all():
        raise UserError(f"--hold_out {share} leaves no image of some label: hold out less.")
    return ImageData(data.images[kept.to(data.images.device)], labels)
