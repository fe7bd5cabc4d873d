"""Where z comes from when images are generated: the prior, or a density fitted after training.

The z that the decoder has learned from, the encoder's of all training images together, do not fill
N(0, I) as the bound would have them. A density fitted to them is nearer to what it knows: ex-post
density estimation, Ghosh et al. 2020, sec. 4 (arXiv:1903.12436). Nothing is trained by it.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from errors import UserError
from variational.scores import encoded

COMPONENTS = {"prior": 0, "gaussian": 1, "mixture": 10}  # Gaussians with full covariances
MOST = 60_000  # images whose z it is fitted to


class Density(NamedTuple):
    """A mixture of K Gaussians: weights (K,), means (K, Z), Cholesky factors (K, Z, Z)."""

    weights: Tensor
    means: Tensor
    factors: Tensor

    def draw(self, n: int, stream: torch.Generator) -> Tensor:
        """z (n, Z), a function of the stream, which is of the CPU."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=stream)
        noise = torch.randn(n, self.means.shape[1], generator=stream)
        return self.means[k] + torch.einsum("nij,nj->ni", self.factors[k], noise)


def mixture_class() -> type:
    """scikit-learn's GaussianMixture: optional, as the prior does without. UserError: not there."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise UserError(
            "--latent_density: it needs scikit-learn, which is not installed (pip install"
            " scikit-learn). Or take --latent_density prior."
        ) from None
    return GaussianMixture


def fit(z: Tensor, components: int, seed: int) -> Density:
    """By expectation maximisation to z (N, Z), from k-means. UserError: N < 2."""
    if len(z) < 2:
        raise UserError(
            "--latent_density: wanted two training images or more to fit a density to, found"
            f" {len(z)}. Take --latent_density prior."
        )
    mixture = mixture_class()(min(components, len(z)), max_iter=200, random_state=seed % 2**32)
    mixture.fit(z.double().numpy())
    found = (mixture.weights_, mixture.means_, mixture.covariances_)
    weights, means, covariances = (torch.from_numpy(values) for values in found)
    return Density(weights, means.float(), torch.linalg.cholesky(covariances).float())


def fit_to_encoder(
    encoder: Callable[[Tensor], Tensor],
    images: Tensor,
    components: int,
    *,
    seed: int,
    device: torch.device,
) -> Density:
    """images (N, C, S, S) uint8; one z ~ q(z | x) of each, of the first MOST at most."""
    print(f"fitting the density of z ({components} Gaussians)", file=sys.stderr)
    with torch.no_grad():
        parts = encoded(encoder, images[:MOST], "density", seed=seed, device=device)
        z = torch.cat([part.z.cpu() for part in parts])
    return fit(z, components, seed)
