"""Keep the weights in bounds: spectral norm, orthogonal initialisation and regularisation."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized

WEIGHED = (nn.Conv2d, nn.Linear, nn.Embedding)
EPS = 1e-6  # of the power iteration, as BigGAN's authors' code has it


class SpectralNetwork(nn.Module):
    """A network whose spectral-norm vectors move in `advance` alone, not in each forward pass.

    torch's parametrization makes a step of the power iteration whenever a weight is read in
    training mode, so that two batches that accumulate would not be one of twice the size.
    """

    def normalize_spectrally(self, *, but: tuple[nn.Module, ...] = ()) -> None:
        """Divides each weight by its largest singular value from now on. Miyato et al. 2018."""
        for layer in list(self.modules()):
            if isinstance(layer, WEIGHED) and layer not in but:
                parametrizations.spectral_norm(layer, eps=EPS)
        self.train(self.training)

    def normalized(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """(layer, its spectral norm) of the layers that have one."""
        for layer in self.modules():
            if is_parametrized(layer, "weight"):
                yield layer, layer.parametrizations.weight[0]

    def train(self, mode: bool = True) -> "SpectralNetwork":
        super().train(mode)
        for _, norm in self.normalized():
            norm.eval()
        return self

    @torch.no_grad()
    def advance(self) -> None:
        """A step of every power iteration. Miyato et al. 2018, algorithm 1: one an update."""
        for layer, norm in self.normalized():
            norm.train()
            _ = layer.weight  # reading it is what makes the step
            norm.eval()


def init_orthogonal(module: nn.Module) -> None:
    """Weights with orthonormal rows, or columns where there are fewer of those (Saxe et al. 2014).

    Biases keep PyTorch's initialisation.
    """
    if isinstance(module, WEIGHED):
        nn.init.orthogonal_(module.weight)


def orthogonal_penalty(layers: Iterable[nn.Module]) -> Tensor:
    """Sum over the weights W, a row an output, of |W W^T o (1 - I)|_F^2. Brock et al. 2018, eq. 3.

    Rows may be of any length and only have to be at right angles. Taken before the spectral norm.
    """
    penalties = []
    for layer in layers:
        weight = layer.parametrizations.weight.original if is_parametrized(layer) else layer.weight
        rows = weight.flatten(1)
        gram = rows @ rows.T
        penalties.append((gram - gram.diagonal().diag()).square().sum())
    return sum(penalties)
