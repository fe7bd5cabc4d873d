"""Variational autoencoder (Kingma & Welling 2014): MNIST, 784-400-20, is the main job. docs/vae.md.

Inside, images and means are in [0, 1]; what it shows and generates is in [-1, 1] and bytes, as
every system's. Networks, the bound, pixels, scores and pictures are in systems/vae/.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from tqdm import tqdm

from dataset import Batch, Batches, ImageData, num_channels, order, to_bytes
from from_noise import GeneratesFromNoise
from lib.distributed import gather, on_main, rank, shard, world
from lib.runlog import ENCODERS, RunLog, record_grid
from lib.seeding import generator, global_stream
from sources.pictures import resize
from sources.spec import NoTestSplit
from systems.vae.binarise import statically_binarised
from systems.vae.config import VAEConfig
from systems.vae.density import COMPONENTS, Density, check_density, encoded, fit
from systems.vae.elbo import LIKELIHOODS, bernoulli_nats, kl_to_prior, reparametrised
from systems.vae.grids import manifold_points, paired_grids, square_grid
from systems.vae.networks import ARCHITECTURES, SignedMeans
from systems.vae.scores import (
    Terms,
    active_units,
    bound_results,
    likelihood_results,
    log_weights,
    test_terms,
    to_unit,
)
from trainer import Trainer
from training.decay import set_rates
from training.layers import memory_format
from training.modes import Average, in_training_form, sampling

SCORE_SIZES = {28: 32}  # image_size -> side of the images that FID compares, where they differ
SHOWN = 36  # samples, and images beside their reconstructions


class VAE(GeneratesFromNoise, Trainer):
    """Encoder x -> q(z | x) and decoder z -> p(x | z), trained together on the evidence bound."""

    config_class = VAEConfig
    config: VAEConfig
    bar_tags = ("loss", "reconstruction", "kl")

    def __init__(self, config: VAEConfig, device: torch.device) -> None:
        super().__init__(config, device)
        sizes = {
            "num_channels": num_channels(config),
            "image_size": config.image_size,
            "latent_dim": config.latent_dim,
            "hidden_dim": config.hidden_dim,
        }
        if config.arch == "conv":
            sizes["width"] = config.width
        with global_stream("weights", config.seed):  # drawn on the CPU: alike on every device
            encoder, decoder = (make(**sizes) for make in ARCHITECTURES[config.arch])
        self.networks = {
            "encoder": encoder.to(device, memory_format=memory_format(device)),
            "decoder": decoder.to(device, memory_format=memory_format(device)),
        }
        self.play = {  # forward passes of the step
            name: in_training_form(net, config, device) for name, net in self.networks.items()
        }
        weights = [p for net in self.networks.values() for p in net.parameters()]
        betas = (config.beta1, config.beta2)
        self.optimizers = {"vae": Adam(weights, lr=config.learning_rate, betas=betas, fused=True)}
        self.nats = LIKELIHOODS[config.likelihood]
        self.fitted: tuple[int, Density] | None = None  # --latent_density's, and its step
        self.averages: dict[str, Average] = {}  # of the weights over the steps
        if config.ema:
            self.averages = {name: Average(net, config.ema) for name, net in self.networks.items()}
            self.networks |= {f"{name}_average": net for name, net in self.averages.items()}

    # A step

    def batches(self) -> Batches:
        config = self.config
        data = self.load_data("train")
        _ = self.test_images  # if they are damaged, then before the first step
        if config.latent_density != "prior":
            check_density(config.latent_density, len(data), config.latent_dim)
        if config.pixels == "static":
            data = ImageData(statically_binarised(data.images, "train"), data.labels)
        return Batches(data, batch_size=config.batch_size, seed=config.seed)

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Kingma & Welling 2014, algorithm 1, one z an image: descend -log p(x | z) + beta KL."""
        set_rates(self.optimizers, {"vae": self.config.learning_rate}, self.config, self.step)
        x = self.pixels_of(batch.x)
        mean, log_variance = self.play["encoder"](x).chunk(2, 1)
        z = reparametrised(mean, log_variance, self.batch_noise(len(x)))
        reconstruction = self.nats(self.play["decoder"](z), x).mean()
        kl = kl_to_prior(mean, log_variance).mean()
        loss = reconstruction + self.config.beta * kl
        optimizer = self.optimizers["vae"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, average in self.averages.items():
            average.update_parameters(self.networks[name])
        return {
            "loss": loss.detach(),
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
        }

    def pixels_of(self, x: Tensor) -> Tensor:
        """[-1, 1] -> [0, 1]: what this step takes the images' pixels to be."""
        x = (x + 1) / 2
        if self.config.pixels != "stochastic":
            return x
        shape = (len(x) * world(), *x.shape[1:])  # all ranks together draw as one would alone
        stream = generator(self.device, "pixels", self.config.seed, self.step)
        return (shard(torch.rand(shape, generator=stream, device=self.device)) < x).float()

    def batch_noise(self, n: int) -> Tensor:
        """(n, latent_dim): this rank's rows of the batch's N(0, I)."""
        stream = generator(self.device, "noise", self.config.seed, self.step)
        size = (n * world(), self.config.latent_dim)
        return shard(torch.randn(size, generator=stream, device=self.device))

    # Test images

    def watch(self, log: RunLog, scalars: dict[str, float] | None) -> None:
        """Every --test_every steps: the loss on all test images, by the weights as they are."""
        every = self.config.test_every
        if not every or self.step % every or rank() or self.test_images is None:
            return
        terms = self.terms_of(self.test_images, self.networks["encoder"], self.networks["decoder"])
        reconstruction, kl = terms.reconstruction.mean().item(), terms.kl.mean().item()
        values = {
            "test/loss": reconstruction + self.config.beta * kl,
            "test/reconstruction": reconstruction,
            "test/kl": kl,
            "test/active_units": float(active_units(terms.mean)),
        }
        log.scalars(values, self.step)

    def terms_of(self, images: Tensor, encoder: nn.Module, decoder: nn.Module) -> Terms:
        with sampling(encoder), sampling(decoder):
            return test_terms(
                encoder,
                decoder,
                images,
                nats=self.nats,
                seed=self.config.seed,
                device=self.device,
            )

    @cached_property
    def test_images(self) -> Tensor | None:
        """uint8, grey or as --pixels has them; None where the dataset has no test images."""
        try:
            images = self.load_data("test").images
        except NoTestSplit:
            return None
        return images if self.config.pixels == "grey" else statically_binarised(images, "test")

    # Samples and scores

    def sampled(self, name: str) -> nn.Module:
        """The encoder or the decoder, or with --ema its average."""
        return self.averages[name].module if self.averages else self.networks[name]

    def sampled_generator(self) -> nn.Module:
        """z (N, latent_dim) or (N, latent_dim, 1, 1) -> images (N, C, S, S) in [-1, 1]."""
        return SignedMeans(self.sampled("decoder"))

    def sample_images(self) -> dict[str, Tensor]:
        """36 samples of fixed z, 36 images beside reconstructions, the manifold of a 2-d z."""
        n, seed = self.config.latent_dim, self.config.seed
        z = torch.randn(SHOWN, n, generator=generator("cpu", "fixed noise", seed))
        grids = {"samples": square_grid(self.means_of(z))}
        grids["reconstructions"] = paired_grids(*self.reconstructed())
        if n == 2:
            grids["manifold"] = square_grid(self.means_of(manifold_points()))
        return grids

    def means_of(self, z: Tensor) -> Tensor:
        """Images in [-1, 1] from z, which may lie on the CPU."""
        G = self.sampled_generator()
        with sampling(G.decoder):
            return G(z.to(self.device))

    @cached_property
    def originals(self) -> Tensor:
        """36 test images (or training images) in [0, 1]; as bits where the model learns bits."""
        images = self.test_images
        if images is None:
            images = self.training_images()
        chosen = order(len(images), self.config.seed, 0)[:SHOWN]
        return to_unit(images[chosen.to(images.device)].to(self.device))

    def training_images(self) -> Tensor:
        """uint8, grey or, where the model learns bits, as static ones."""
        images = self.load_data("train").images
        return images if self.config.pixels == "grey" else statically_binarised(images, "train")

    def reconstructed(self) -> tuple[Tensor, Tensor]:
        """36 images that never change, and the means of p(x | z) at z = the mean of q(z | x)."""
        x, encoder = self.originals, self.sampled("encoder")
        with sampling(encoder):
            mean, _ = encoder(x).chunk(2, 1)
        return 2 * x - 1, self.means_of(mean)

    @property
    def z_shape(self) -> tuple[int, ...]:
        return (self.config.latent_dim,)

    def generated_noise(self, n: int, seed: int, batch_size: int) -> Iterator[Tensor]:
        if self.config.latent_density == "prior":
            yield from super().generated_noise(n, seed, batch_size)
            return
        density, stream = self.density(), generator("cpu", "generate", seed)
        for start in range(0, n, batch_size):
            yield density.draw(min(batch_size, n - start), stream)

    def density(self) -> Density:
        """That of --latent_density, fitted to the encoder's z once a step, on rank 0 for all."""
        if self.fitted is None or self.fitted[0] != self.step:
            self.fitted = self.step, gather(on_main(self.fitted_density))[0]
        return self.fitted[1]

    def fitted_density(self) -> Density:
        config, encoder = self.config, self.sampled("encoder")
        images = self.training_images()
        check_density(config.latent_density, len(images), config.latent_dim)
        components = COMPONENTS[config.latent_density]
        tqdm.write(f"fitting a {config.latent_density} to the encoder's z", file=sys.stderr)
        with sampling(encoder):
            z = encoded(encoder, images, config.seed, self.device)
        return fit(z, components, config.seed)

    def resume(self) -> bool:
        self.fitted = None
        return super().resume()

    def images_of(self, noise: Iterable[Tensor]) -> Iterator[Tensor]:
        """The means of p(x | z), and no draws from it."""
        for z in noise:
            yield resize(to_bytes(self.means_of(z)), self.score_size)

    @property
    def score_size(self) -> int:
        """28 pixels are scored as the GANs' real ones are: enlarged to 32, both sides alike."""
        return SCORE_SIZES.get(self.config.image_size, self.config.image_size)

    def real_images(self, split: str) -> ImageData:
        data = self.load_data(split)
        return replace(data, images=resize(data.images, self.score_size))

    def sampling_mode(self) -> dict[str, str | bool]:
        """Of every result: images are means of p(x | z), not draws from it; and whence z comes."""
        return {
            "ema": bool(self.averages),
            "batchnorm": "none",
            "images": "means of p(x | z)",
            "latent_density": self.config.latent_density,
        }

    def evaluate(self, extractor: nn.Module) -> list[dict[str, Any]]:
        """The bound on all test images, and the log-likelihood of binarised ones. docs/vae.md."""
        images, config = self.test_images, self.config
        self.show_generated()
        if images is None:
            print("no bound, no log-likelihood: there are no test images", file=sys.stderr)
        if images is None or rank():  # rank 0 speaks for all
            return []
        kind = "grey" if config.pixels == "grey" else "statically binarised"
        encoder, decoder = self.sampled("encoder"), self.sampled("decoder")
        results = bound_results(self.terms_of(images, encoder, decoder), f"{kind} test images")
        if config.likelihood == "bce" and config.importance_samples:
            bits = statically_binarised(images, "test") if kind == "grey" else images
            results += likelihood_results(self.log_weights_of(bits, encoder, decoder))
        return [result | {"latent_density": ENCODERS} for result in results]

    def show_generated(self) -> None:
        """36 images of z from --latent_density, where the samples of the training are not those."""
        name, seed = self.config.latent_density, self.config.seed
        if name == "prior" or rank():
            return
        z = self.density().draw(SHOWN, generator("cpu", "fixed noise", seed))
        record_grid(self.config, f"samples_{name}", square_grid(self.means_of(z)), self.step)

    def log_weights_of(self, bits: Tensor, encoder: nn.Module, decoder: nn.Module) -> Tensor:
        """(N, importance_samples), of binarised images."""
        config = self.config
        with sampling(encoder), sampling(decoder):
            return log_weights(
                encoder,
                decoder,
                bits,
                samples=config.importance_samples,
                nats=bernoulli_nats,
                seed=config.seed,
                device=self.device,
            )
