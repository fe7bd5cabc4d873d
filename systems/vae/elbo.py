"""The evidence lower bound: its two terms, the reparametrised z, and the importance-weighted bound.

In nats, summed over pixels and latent units, one value an image: the terms compare as they stand.
Kingma & Welling 2014, arXiv:1312.6114.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Likelihood = Callable[[Tensor, Tensor], Tensor]  # logits, x -> (N,) nats


def bernoulli_nats(logits: Tensor, x: Tensor) -> Tensor:
    """-sum x log p + (1 - x) log(1 - p), p = sigmoid(logits): -log p(x | z) where x is 0 or 1.

    For grey x it is the cross-entropy, and no likelihood. docs/vae.md.
    """
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_nats(logits: Tensor, x: Tensor) -> Tensor:
    """sum (x - p)^2: -log N(x; p, I/2) without its constant, log(pi)/2 a pixel."""
    return (torch.sigmoid(logits) - x).square().flatten(1).sum(1)


LIKELIHOODS: dict[str, Likelihood] = {"bce": bernoulli_nats, "mse": gaussian_nats}


def reparametrised(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z = mu + sigma noise, through which gradients reach mu and sigma. Sec. 2.4."""
    return mean + (log_variance / 2).exp() * noise


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) (N,), summed over units. App. B."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


def log_normal(z: Tensor, mean: Tensor | float = 0.0, log_variance: Tensor | float = 0.0) -> Tensor:
    """log N(z; mean, exp(log_variance)), summed over the last axis."""
    log_variance = torch.as_tensor(log_variance, dtype=z.dtype, device=z.device)
    squares = (z - mean).square() / log_variance.exp()
    return -(squares + log_variance + math.log(2 * math.pi)).sum(-1) / 2


def importance_weighted(log_weights: Tensor) -> Tensor:
    """log (1/k sum w) over the last axis of (N, k): Burda et al. 2016, eq. 8, arXiv:1509.00519.

    w = p(x | z) p(z) / q(z | x). With k = 1 the ELBO of that one z; it grows with k to log p(x).
    """
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])
