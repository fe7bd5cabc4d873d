"""The evidence lower bound: its two terms and the reparametrised z; and the bound on test images.

In nats, summed over pixels and latent units, one value an image: the terms compare as they stand.
Kingma & Welling 2014, arXiv:1312.6114.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.results import Result, mean_result
from lib.seeding import generator

BATCH_SIZE = 500
ACTIVE = 0.01  # variance of a unit's posterior mean over the data, Burda et al. 2016, sec. 5.2


def bernoulli_nats(logits: Tensor, x: Tensor) -> Tensor:
    """-sum x log p + (1 - x) log(1 - p), p = sigmoid(logits): -log p(x | z) where x is 0 or 1.

    For grey x it is the cross-entropy, and no likelihood. docs/vae.md.
    """
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_nats(logits: Tensor, x: Tensor) -> Tensor:
    """sum (x - p)^2: -log N(x; p, I/2) without its constant, log(pi)/2 a pixel."""
    return (torch.sigmoid(logits) - x).square().flatten(1).sum(1)


LIKELIHOODS = {"bce": bernoulli_nats, "mse": gaussian_nats}  # logits, x -> (N,) nats


def reparametrised(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z = mu + sigma noise, through which gradients reach mu and sigma. Sec. 2.4."""
    return mean + (log_variance / 2).exp() * noise


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) (N,), summed over units. App. B."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


class Terms(NamedTuple):
    """Both terms of each test image's bound (N,) in nats, and its posterior mean (N, Z)."""

    reconstruction: Tensor
    kl: Tensor
    mean: Tensor


@torch.no_grad()
def test_terms(trainer, networks: tuple[nn.Module, nn.Module], images: Tensor) -> Terms:
    """images (N, C, S, S) uint8; one z an image, as in training, a function of (seed, batch)."""
    encoder, decoder = networks
    parts = []
    for i, some in enumerate(images.split(BATCH_SIZE)):
        x = some.to(trainer.device).float() / 255
        mean, log_variance = encoder(x).chunk(2, 1)
        stream = generator(trainer.device, "test noise", trainer.config.seed, i)
        noise = torch.randn(mean.shape, generator=stream, device=trainer.device)
        logits = decoder(reparametrised(mean, log_variance, noise))
        parts.append((trainer.nats(logits, x), kl_to_prior(mean, log_variance), mean))
    return Terms(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))


def active_units(mean: Tensor) -> int:
    """The number of units whose posterior means (N, Z) vary with the image."""
    return int((mean.var(0) > ACTIVE).sum())


def bound_results(terms: Terms, words: str) -> list[Result]:
    """The negative ELBO, its two terms, and the active units."""
    n = len(terms.kl)
    about = f"nats, {n:,} {words}"
    return [
        mean_result("elbo_loss", terms.reconstruction + terms.kl, about),
        mean_result("elbo_reconstruction", terms.reconstruction, about),
        mean_result("elbo_kl", terms.kl, about),
        {
            "metric": "active_units",
            "value": float(active_units(terms.mean)),
            "n": n,
            "about": f"of {terms.mean.shape[1]}: variance of the posterior mean above {ACTIVE}",
        },
    ]
