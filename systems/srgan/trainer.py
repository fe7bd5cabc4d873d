"""Super-resolution 16x16 -> 64x64 by a reconstruction and an adversarial loss. docs/srgan.md.

The step is GANTrainer's with a small image in the place of z; the parts are in systems/srgan/.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dataset import Batch, Batches, ImageData, num_channels, order, to_signed
from GAN import add_spectral_norm
from lib.results import Result
from lib.runlog import make_grid
from lib.seeding import key_seed
from metrics.lpips import load_vgg_maps, lpips_if_any
from sources import NoTestSplit
from systems.srgan.config import SRGANConfig
from systems.srgan.flips import in_random_positions
from systems.srgan.losses import RECONSTRUCTIONS
from systems.srgan.networks import GENERATORS, Discriminator
from systems.srgan.resampling import enlarge, shrink
from systems.srgan.scores import restoration_scores
from trainer import AT_ONCE, STATISTICS, GANTrainer, Scalars
from training.config import set_rates
from training.ema import Inputs
from training.layers import memory_format
from training.losses import mean_probability
from training.modes import frozen, mixes_samples
from training.precision import Forward

Loss = tuple[str, float, Tensor]  # tag, weight, value


class SRGAN(GANTrainer):
    """G enlarges, D tells its images from true ones."""

    config: SRGANConfig

    def __init__(self, config: SRGANConfig, device: torch.device) -> None:
        self.channels = num_channels(config)
        self.load_data = cache(self.load_data)  # used again and again by samples and statistics
        sizes = self.channels, config.generator_hidden_dim, config.init
        G = GENERATORS[config.arch](*sizes, config.residual_blocks, config.upsample)
        width, norm = config.discriminator_hidden_dim, config.d_norm
        D = Discriminator(self.channels, width, norm=norm, init=config.init)
        if config.spectral_norm:
            add_spectral_norm(D)
        super().__init__(config, device, G=G, D=D)
        # a mean over an image's patches, as the losses take it
        self.penalized = lambda x: self.D.logits(x).view(len(x), -1).mean(1)
        self.reconstruction = RECONSTRUCTIONS[config.reconstruction]
        if not config.adversarial_weight:
            del self.networks["D"], self.optimizers["D"]
            self.bar_tags, self.line_form = ("reconstruction_loss",), ""

    @cached_property
    def vgg_maps(self) -> Forward:
        """VGG16's maps; the weights are fetched when a step first asks for them."""
        return self.main_first(lambda: load_vgg_maps(self.device))

    def held_out(self) -> tuple[ImageData, str]:
        """Return the test images, or if there are none the training images; and which they are."""
        try:
            return self.load_data("test"), "test"
        except NoTestSplit:
            return self.load_data("train"), "training"

    def batches(self) -> Batches:
        self.held_out()  # raises UserError if the test images are damaged: before the first step
        return super().batches()

    def shrunk(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, C, S/4, S/4), both in [-1, 1], as --downsample has it."""
        return shrink(x, self.config.downsample)

    def train_step(self, batch: Batch) -> Scalars:
        """--d_steps updates of D, then one of G on the images that D saw last."""
        config, scalars = self.config, {}
        set_rates(self.optimizers, self.learning_rates, config, self.step)
        whole = in_random_positions(batch.x, config.positions, config.seed, self.step)
        for k, x in enumerate(whole.chunk(config.d_steps)):
            fake = self.fakes(self.shrunk(x))
            if config.adversarial_weight:
                index = self.step * config.d_steps + k
                scalars = self.update_discriminator(x, fake.detach(), index)
        return scalars | self.update_upscaler(x, fake)

    def update_upscaler(self, x: Tensor, fake: Tensor) -> Scalars:
        """Part 2: G descends the weighted sum of its losses, judged by the D just updated."""
        self.optimizers["G"].zero_grad()
        with frozen(self.D) if self.config.adversarial_weight else nullcontext():
            scalars, total = {}, 0.0
            for tag, weight, loss in self.losses(x, fake, scalars):
                scalars[tag] = loss.detach()
                total = total + weight * loss
            total.backward()
        self.optimizers["G"].step()
        return scalars

    def losses(self, x: Tensor, fake: Tensor, scalars: Scalars) -> Iterator[Loss]:
        """Yield what G minimises. A loss without a weight is not computed, the first one is."""
        config = self.config
        loss = self.reconstruction(fake, x)
        yield "reconstruction_loss", config.reconstruction_weight, loss
        if config.adversarial_weight:
            logits = self.logits(self.augment(fake, "for G", self.step))
            scalars["D(G(z2))"] = mean_probability(logits)
            yield "generator_loss", config.adversarial_weight, self.loss.generator(logits)
        if weight := config.feature_matching_weight:
            gaps = self.difference(self.D.features, x, fake)
            yield "feature_matching_loss", weight, gaps.sum(1).mean()  # over D's maps a mean
        if weight := config.perceptual_weight:
            yield "perceptual_loss", weight, self.difference(self.vgg_maps, x, fake).mean()

    def difference(self, features: Forward, x: Tensor, fake: Tensor) -> Tensor:
        """|features(x) - features(fake)| in --precision, from which fake alone learns."""
        with torch.no_grad(), self.autocast:
            wanted = features(x).float()
        with self.autocast:
            found = features(fake).float()
        return (found - wanted).abs()

    def sample(self, low: Tensor, *, G: nn.Module | None = None) -> Tensor:
        """Enlarge low (N, C, s, s) in [-1, 1] to (N, C, 4s, 4s), by G in eval mode."""
        return super().sample(low.contiguous(memory_format=memory_format(self.device)), G=G)

    def sampling_inputs(self, n: int, seed: int) -> Iterator[Inputs]:
        """Yield test images, shrunk, in the seed's order; beyond their number they come again."""
        images = self.held_out()[0].images
        chosen = order(len(images), key_seed("generate", seed), 0).repeat(n // len(images) + 1)[:n]
        for indices in chosen.to(images.device).split(AT_ONCE):
            yield (self.shrunk(to_signed(images[indices])),)

    def statistics_inputs(self) -> Iterator[Inputs]:
        images = self.load_data("train").images[:STATISTICS]
        return ((self.shrunk(to_signed(x).to(self.device)),) for x in images.split(AT_ONCE))

    def sampled_generator(self) -> nn.Module:
        """G, or with --ema its average: with BatchNorm a copy that has statistics of its own."""
        if self.averages and not mixes_samples(self.G):
            return self.averages["G"].module
        return super().sampled_generator()

    def sampling_mode(self) -> dict[str, Any]:
        norm = "running statistics" if mixes_samples(self.G) else "none"
        if self.averages and mixes_samples(self.G):
            n = min(STATISTICS, len(self.load_data("train")))
            norm = f"re-estimated on {n} training images"
        return {"ema": bool(self.averages), "batchnorm": norm}

    def sample_images(self) -> dict[str, Tensor]:
        """Ten test images that never change, a row each: input (bilinear), output, truth.

        And the first of them alone, whose stages scripts/evolution.py puts into one strip.
        """
        images = self.held_out()[0].images
        chosen = order(len(images), key_seed("samples"), 0)[:10].to(images.device)
        x = to_signed(images[chosen]).to(self.device)
        low = self.shrunk(x)
        rows = torch.stack([enlarge(low), self.sample(low), x], 1)
        return {
            tag: make_grid(some.flatten(0, 1), columns=3)
            for tag, some in (("samples", rows), ("fixed_input", rows[:1]))
        }

    def fetch(self) -> None:
        self.main_first(lambda: lpips_if_any(self.device))

    def evaluate(self, extractor: nn.Module) -> list[Result]:
        """Compute MSE, PSNR, SSIM, LPIPS over all test images, beside what learns nothing."""
        return restoration_scores(self)
