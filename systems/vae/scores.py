"""How good a variational autoencoder is on test images: the bound, log-likelihood, active units.

Everything goes in batches that bound the memory. The noise is a function of (seed, batch).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from lib.results import Result, mean_result
from lib.seeding import generator
from systems.vae.elbo import importance_weighted, kl_to_prior, log_normal, reparametrised

if TYPE_CHECKING:
    from systems.vae.trainer import VAE, Networks

BATCH_SIZE = 500
DECODED_AT_ONCE = 2000  # images x samples of the importance-weighted bound
ACTIVE = 0.01  # variance of a unit's posterior mean over the data, Burda et al. 2016, sec. 5.2


class Terms(NamedTuple):
    """Both terms of each test image's bound (N,) in nats, and its posterior mean (N, Z)."""

    reconstruction: Tensor
    kl: Tensor
    mean: Tensor


def to_unit(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [0, 1]."""
    return images.float().div_(255)


@torch.no_grad()
def test_terms(trainer: "VAE", networks: "Networks", images: Tensor) -> Terms:
    """images (N, C, S, S) uint8; one z an image, as in training."""
    encoder, decoder = networks
    parts = []
    for i, some in enumerate(images.split(BATCH_SIZE)):
        x = to_unit(some.to(trainer.device))
        mean, log_variance = encoder(x).chunk(2, 1)
        stream = generator(trainer.device, "test noise", trainer.config.seed, i)
        noise = torch.randn(mean.shape, generator=stream, device=trainer.device)
        logits = decoder(reparametrised(mean, log_variance, noise))
        parts.append((trainer.nats(logits, x), kl_to_prior(mean, log_variance), mean))
    return Terms(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))


def active_units(mean: Tensor) -> int:
    """The number of units whose posterior means (N, Z) vary with the image."""
    return int((mean.var(0) > ACTIVE).sum())


@torch.no_grad()
def log_weights(trainer: "VAE", networks: "Networks", images: Tensor) -> Tensor:
    """(N, importance_samples) log p(x | z) + log p(z) - log q(z | x), z ~ q(z | x).

    DECODED_AT_ONCE z's at a time, whatever --importance_samples is.
    """
    encoder, decoder = networks
    samples = trainer.config.importance_samples
    found = torch.empty(len(images), samples)  # first, or small parts would split the heap
    n = max(1, DECODED_AT_ONCE // samples)
    bar = tqdm(total=len(images), desc=f"log-likelihood, k = {samples}", unit="img", disable=None)
    for i, some in enumerate(images.split(n)):
        x = to_unit(some.to(trainer.device))
        posterior = encoder(x)
        stream = generator(trainer.device, "importance samples", trainer.config.seed, i)
        for start in range(0, samples, DECODED_AT_ONCE):
            k = min(DECODED_AT_ONCE, samples - start)
            mean, log_variance = (p.repeat_interleave(k, 0) for p in posterior.chunk(2, 1))
            noise = torch.randn(mean.shape, generator=stream, device=mean.device)
            z = reparametrised(mean, log_variance, noise)
            log_p_x = -trainer.nats(decoder(z), x.repeat_interleave(k, 0))
            log_w = log_p_x + log_normal(z) - log_normal(z, mean, log_variance)
            found[i * n : i * n + len(some), start : start + k] = log_w.view(len(x), k)
        bar.update(len(some))
    bar.close()
    return found


def bound_results(terms: Terms, words: str) -> list[Result]:
    """The negative ELBO, its two terms, and the active units."""
    n = len(terms.kl)
    about = f"{n:,} {words}"
    return [
        mean_result("elbo_loss", terms.reconstruction + terms.kl, f"nats, {about}"),
        mean_result("elbo_reconstruction", terms.reconstruction, f"nats, {about}"),
        mean_result("elbo_kl", terms.kl, f"nats, {about}"),
        {
            "metric": "active_units",
            "value": float(active_units(terms.mean)),
            "n": n,
            "about": f"of {terms.mean.shape[1]}: variance of the posterior mean above {ACTIVE}",
        },
    ]


def likelihood_results(weights: Tensor) -> list[Result]:
    """log p(x) from below by k samples, and by one (the ELBO), of log weights (N, k)."""
    n, k = weights.shape
    about = f"nats, {n:,} statically binarised test images"
    return [
        mean_result(f"log_likelihood_k{k}", importance_weighted(weights), about),
        mean_result("binarised_elbo", weights.mean(1), about),
    ]
