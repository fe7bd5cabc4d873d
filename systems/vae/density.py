"""Where z comes from when images are generated: the prior, or a density fitted after training.

The z that the decoder has learned from, the encoder's of all training images together, do not fill
N(0, I) as the bound would have them. A density fitted to them is nearer to what it knows: ex-post
density estimation, Ghosh et al. 2020, sec. 4 (arXiv:1903.12436). Nothing is trained by it.
"""

import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dataset import order
from lib.errors import UserError
from lib.seeding import generator
from systems.vae.elbo import reparametrised
from systems.vae.scores import BATCH_SIZE, to_unit

COMPONENTS = {"prior": 0, "gaussian": 1, "mixture": 10}  # Gaussians with full covariances
MOST = 60_000  # images whose z it is fitted to
ITERATIONS = 200  # of expectation maximisation, at most


class Density(NamedTuple):
    """A mixture of K Gaussians: weights (K,), means (K, Z), Cholesky factors (K, Z, Z)."""

    weights: Tensor
    means: Tensor
    factors: Tensor

    def draw(self, n: int, stream: torch.Generator) -> Tensor:
        """z (n, Z), a function of the stream, which is of the CPU."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=stream)
        z = torch.randn(n, self.means.shape[1], generator=stream)
        for k in chosen.unique():
            rows = chosen == k
            z[rows] = self.means[k] + z[rows] @ self.factors[k].T
        return z


def check_density(name: str, images: int, latent_dim: int) -> None:
    """UserError: no scikit-learn, or fewer images than a Gaussian of latent_dim units wants each.

    Of fewer it would learn their own z by heart.
    """
    try:
        import sklearn.mixture  # noqa: F401  # optional: the prior does without
    except ImportError:
        raise UserError(
            f"--latent_density {name}: it needs scikit-learn, which is not installed (pip install"
            " scikit-learn). Or take --latent_density prior."
        ) from None
    wanted = COMPONENTS[name] * (latent_dim + 1)
    if images < wanted:
        raise UserError(
            f"--latent_density {name}: wanted {wanted:,} training images or more,"
            f" {latent_dim + 1} a Gaussian, found {images:,}. Take --latent_density prior, or a"
            " smaller --latent_dim."
        )


def fit(z: Tensor, components: int, seed: int) -> Density:
    """By expectation maximisation to z (N, Z) from k-means. UserError: z that no Gaussian fits."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, max_iter=ITERATIONS, random_state=seed % 2**32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told below
            mixture.fit(z.double().numpy())
    except ValueError as error:
        raise UserError(
            "--latent_density: no density could be fitted to the encoder's z, whose largest value"
            f" is {z.abs().max().item():.3g} ({error}). Take --latent_density prior."
        ) from None
    if not mixture.converged_:
        print(f"the density of z still moved after {ITERATIONS} iterations", file=sys.stderr)
    found = (mixture.weights_, mixture.means_, mixture.covariances_)
    weights, means, covariances = (torch.from_numpy(values) for values in found)
    return Density(weights, means.float(), torch.linalg.cholesky(covariances).float())


@torch.no_grad()
def encoded(
    encoder: Callable[[Tensor], Tensor], images: Tensor, seed: int, device: torch.device
) -> Tensor:
    """images (N, C, S, S) uint8 -> one z ~ q(z | x) of each, on the CPU, of MOST at most."""
    if len(images) > MOST:
        images = images[order(len(images), seed, 0)[:MOST].to(images.device)]
    parts, stream = [], generator("cpu", "density", seed)
    for some in images.split(BATCH_SIZE):
        mean, log_variance = encoder(to_unit(some.to(device))).cpu().chunk(2, 1)
        parts.append(reparametrised(mean, log_variance, torch.randn(mean.shape, generator=stream)))
    return torch.cat(parts)
