"""Variational autoencoder (Kingma & Welling 2014): MNIST, 784-400-20, is the main job. docs/vae.md.

Inside, images and means are in [0, 1]; what it shows and generates is in [-1, 1] and bytes, like
every system's.
"""

import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dataset import Batch, Batches, ImageData, num_channels, order, to_bytes
from lib.results import Result
from lib.runlog import RunLog, make_grid
from lib.seeding import generator, stream
from metrics.protocols import most_of
from sources import NoTestSplit
from sources.pictures import resize
from systems.vae import elbo
from systems.vae.binarise import statically_binarised
from systems.vae.config import VAEConfig
from systems.vae.networks import DECODERS, Encoder, SignedMeans
from trainer import AT_ONCE, Scalars, Trainer
from training.config import adam, set_rates
from training.ema import Average, Inputs
from training.layers import placed
from training.precision import compiled

SHOWN = 36  # samples, and images beside their reconstructions
MANIFOLD_SIDE = 20  # images


class VAE(Trainer):
    """Encoder x -> q(z | x) and decoder z -> p(x | z), trained together on the evidence bound."""

    config: VAEConfig
    bar_tags = ("loss", "reconstruction", "kl")

    def __init__(self, config: VAEConfig, device: torch.device) -> None:
        super().__init__(config, device)
        networks = {"encoder": Encoder, "decoder": DECODERS[config.arch]}
        channels = num_channels(config)
        self.networks = {k: placed(net(channels, config), device) for k, net in networks.items()}
        self.step_networks = {
            name: compiled(network, config, device) for name, network in self.networks.items()
        }
        weights = [p for network in self.networks.values() for p in network.parameters()]
        self.optimizers = {"vae": adam(weights, config.learning_rate, config)}
        self.nats = elbo.LIKELIHOODS[config.likelihood]
        if config.image_size == 28:
            self.score_size = 32  # enlarged like the GANs' images, real and generated alike
        self.observers.append(self.test)
        if config.ema:
            self.averages = {name: Average(net, config.ema) for name, net in self.networks.items()}
            self.networks |= {f"{name}_average": net for name, net in self.averages.items()}

    def batches(self) -> Batches:
        data = self.load_data("train")
        _ = self.test_images  # if they are damaged, then before the first step
        if self.config.pixels == "static":
            data = ImageData(statically_binarised(data.images, "train"), data.labels)
        return Batches(data, batch_size=self.step_images, seed=self.config.seed)

    def train_step(self, batch: Batch) -> Scalars:
        """Descend -log p(x | z) + beta KL, one z an image. Kingma & Welling 2014, algorithm 1."""
        set_rates(self.optimizers, {"vae": self.config.learning_rate}, self.config, self.step)
        x = self.pixels_of(batch.x)
        with self.autocast:
            posterior = self.step_networks["encoder"](x).float()
        mean, log_variance = posterior.chunk(2, 1)
        draws = stream(self.device, "noise", self.config.seed, self.step)
        noise = torch.randn(mean.shape, generator=draws, device=self.device)
        with self.autocast:
            logits = self.step_networks["decoder"](elbo.reparametrised(mean, log_variance, noise))
        reconstruction = self.nats(logits.float(), x).mean()
        kl = elbo.kl_to_prior(mean, log_variance).mean()
        loss = reconstruction + self.config.beta * kl
        optimizer = self.optimizers["vae"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tags = {"loss": loss, "reconstruction": reconstruction, "kl": kl}
        return {tag: value.detach() for tag, value in tags.items()}

    def pixels_of(self, x: Tensor) -> Tensor:
        """[-1, 1] -> [0, 1]: what this step takes the images' pixels to be."""
        x = (x + 1) / 2
        if self.config.pixels != "stochastic":
            return x
        draws = stream(self.device, "pixels", self.config.seed, self.step)
        return (torch.rand(x.shape, generator=draws, device=self.device) < x).float()

    def test(self, log: RunLog, scalars: dict[str, float] | None) -> None:
        """Every --test_every steps: log the loss on all test images, by the weights as they are."""
        if not self.due(self.config.test_every) or self.test_images is None:
            return
        networks = self.networks["encoder"], self.networks["decoder"]
        terms = elbo.test_terms(self, networks, self.test_images)
        reconstruction, kl = terms.reconstruction.mean().item(), terms.kl.mean().item()
        values = {
            "test/loss": reconstruction + self.config.beta * kl,
            "test/reconstruction": reconstruction,
            "test/kl": kl,
            "test/active_units": float(elbo.active_units(terms.mean)),
        }
        log.scalars(values, self.step)

    @cached_property
    def test_images(self) -> Tensor | None:
        """uint8, grey or bits; None if the dataset has no test images."""
        try:
            return self.pixels_of_split("test")
        except NoTestSplit:
            return None

    def pixels_of_split(self, split: str) -> Tensor:
        """All images of a split, uint8: grey, or as bits if --pixels has bits."""
        images = self.load_data(split).images
        return images if self.config.pixels == "grey" else statically_binarised(images, split)

    def sampled(self, name: str) -> nn.Module:
        """The encoder or the decoder, or with --ema its average."""
        return self.averages[name].module if self.averages else self.networks[name]

    def sampled_generator(self) -> nn.Module:
        """z (N, latent_dim) or (N, latent_dim, 1, 1) -> images (N, C, S, S) in [-1, 1]."""
        return SignedMeans(self.sampled("decoder"))

    @torch.no_grad()
    def sample(self, z: Tensor) -> Tensor:
        """Make the means of p(x | z), no draws from it: (N, C, S, S) in [-1, 1]."""
        return self.sampled_generator()(z.to(self.device))

    def images_from(self, z: Tensor) -> Tensor:
        return resize(to_bytes(self.sample(z)), self.score_size)

    def sampling_inputs(self, n: int, seed: int) -> Iterator[Inputs]:
        draws = generator("cpu", "generate", seed)
        for start in range(0, n, AT_ONCE):
            size = (min(AT_ONCE, n - start), self.config.latent_dim)
            yield (torch.randn(size, generator=draws),)

    def sample_images(self) -> dict[str, Tensor]:
        """36 samples of fixed z, 36 images beside reconstructions, the manifold of a 2-d z."""
        n, seed = self.config.latent_dim, self.config.seed
        z = torch.randn(SHOWN, n, generator=generator("cpu", "fixed noise", seed))
        grids = {"samples": square_grid(self.sample(z))}
        grids["reconstructions"] = paired_grids(*self.reconstructed())
        if n == 2:
            grids["manifold"] = square_grid(self.sample(manifold_points()))
        return grids

    @cached_property
    def originals(self) -> Tensor:
        """36 test images (or training images) in [0, 1]; as bits if the model learns bits."""
        images = self.pixels_of_split("train") if self.test_images is None else self.test_images
        chosen = order(len(images), self.config.seed, 0)[:SHOWN]
        return images[chosen.to(images.device)].to(self.device).float() / 255

    @torch.no_grad()
    def reconstructed(self) -> tuple[Tensor, Tensor]:
        """36 images that never change, and the means of p(x | z) at z = the mean of q(z | x)."""
        mean, _ = self.sampled("encoder")(self.originals).chunk(2, 1)
        return 2 * self.originals - 1, self.sample(mean)

    def sampling_mode(self) -> dict[str, Any]:
        return super().sampling_mode() | {"batchnorm": "none", "images": "means of p(x | z)"}

    def evaluate(self, extractor: nn.Module) -> list[Result]:
        """Compute the bound on all test images; on a few for a smoke test."""
        if self.test_images is None:
            print("no bound: there are no test images", file=sys.stderr)
            return []
        networks = self.sampled("encoder"), self.sampled("decoder")
        images = self.test_images[: most_of(self.config, len(self.test_images))]
        terms = elbo.test_terms(self, networks, images)
        kind = "grey" if self.config.pixels == "grey" else "statically binarised"
        return elbo.bound_results(terms, f"{kind} test images")


def square_grid(x: Tensor) -> Tensor:
    """(n, C, S, S) in [-1, 1] -> one picture, about as many rows as columns."""
    return make_grid(x, columns=round(len(x) ** 0.5))


def paired_grids(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """Originals in a square at the left, their reconstructions in the same places at the right."""
    sides = [square_grid(x) for x in (originals, reconstructions)]
    gap = sides[0].new_ones(*sides[0].shape[:2], 8)
    return torch.cat([sides[0], gap, sides[1]], 2)


def manifold_points(side: int = MANIFOLD_SIDE) -> Tensor:
    """(side^2, 2): a grid that is even in probability under N(0, I), row by row.

    Kingma & Welling 2014, fig. 4: the inverse normal CDF of the middles of equal parts of [0, 1].
    """
    ends = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    return torch.cartesian_prod(ends.flip(0), ends).flip(1)  # the first unit grows to the right
