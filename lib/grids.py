"""Grids of images, for TensorBoard and for files."""

from torch import Tensor


def make_grid(images: Tensor, *, columns: int) -> Tensor:
    """images (N, C, S, S) in [-1, 1] -> one picture (3, H, W), with black lines between them."""
    from torchvision.utils import make_grid  # here: torchvision would slow every start

    return make_grid(images, nrow=columns, padding=2, pad_value=-1.0)
