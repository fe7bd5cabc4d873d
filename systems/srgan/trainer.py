"""Super-resolution 16x16 -> 64x64 by a reconstruction and an adversarial loss. docs/srgan.md.

The step is GANTrainer's with a small image in the place of z; the parts are in systems/srgan/.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dataset import Batch, Batches, ImageData, num_channels, order, to_signed
from lib.grids import make_grid
from lib.seeding import global_stream, key_seed
from metrics.lpips import load_vgg_maps
from sources.spec import NoTestSplit
from systems.srgan.config import SRGANConfig
from systems.srgan.flips import InRandomPositions
from systems.srgan.losses import RECONSTRUCTIONS, difference
from systems.srgan.networks import GENERATORS, Discriminator
from systems.srgan.resampling import enlarge, shrink
from systems.srgan.scores import restoration_scores
from systems.srgan.warm_start import begin_with
from trainer import AT_ONCE, STATISTICS, GANTrainer
from training.config import set_rates
from training.ema import Inputs
from training.layers import memory_format
from training.losses import mean_probability
from training.modes import frozen, mixes_samples
from training.precision import Forward


class Term(NamedTuple):
    """A part of what G minimises: weight times loss."""

    weight: float
    loss: Tensor


class SRGAN(GANTrainer):
    """G enlarges, D tells its images from true ones."""

    config: SRGANConfig

    def __init__(self, config: SRGANConfig, device: torch.device) -> None:
        self.channels = num_channels(config)
        self.loaded: dict[str, ImageData] = {}
        with global_stream("weights", config.seed):  # drawn on the CPU: alike on every device
            G = GENERATORS[config.arch](
                self.channels, config.generator_hidden_dim, config.residual_blocks, config.init
            )
            D = Discriminator(
                num_channels=self.channels,
                width=config.discriminator_hidden_dim,
                norm=config.d_norm,
                spectral_norm=config.spectral_norm,
                init=config.init,
            )
        super().__init__(config, device, G=G, D=D)
        self.penalized = self.D.mean_logits  # a mean over an image's patches, as the losses take it
        self.reconstruction = RECONSTRUCTIONS[config.reconstruction]
        self.in_positions = InRandomPositions(config.positions, config.seed)
        if not config.adversarial_weight:
            del self.networks["D"], self.optimizers["D"]
            self.bar_tags, self.line_form = ("reconstruction_loss",), ""

    @cached_property
    def vgg_maps(self) -> Forward:
        """VGG16's maps; the weights are fetched when a step first asks for them."""
        layer = self.config.perceptual_layer
        return self.main_first(lambda: load_vgg_maps(self.device, layer))

    def load_data(self, split: str) -> ImageData:
        """Read once: the samples and statistics of a run look at it again and again."""
        if split not in self.loaded:
            self.loaded[split] = super().load_data(split)
        return self.loaded[split]

    def held_out(self) -> tuple[ImageData, str]:
        """The test images, or where there are none the training images; and which they are."""
        try:
            return self.load_data("test"), "test"
        except NoTestSplit:
            return self.load_data("train"), "training"

    def resume(self) -> bool:
        """Where there is nothing to resume, --start_from's G is the one to begin with."""
        if super().resume():
            return True
        if other := self.config.start_from:
            begin_with(self.G, Path(self.config.runs_dir) / other)
        return False

    def batches(self) -> Batches:
        self.held_out()  # raises UserError if the test images are damaged: before the first step
        return super().batches()

    def shrunk(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, C, S/4, S/4), both in [-1, 1], as --downsample has it."""
        return shrink(x, self.config.downsample)

    # A step

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """--d_steps updates of D, then one of G on the images that D saw last."""
        set_rates(self.optimizers, self.learning_rates, self.config, self.step)
        scalars, d_steps = {}, self.config.d_steps
        whole = self.in_positions(batch.x, self.step)
        for k, x in enumerate(whole.chunk(d_steps)):
            fake = self.fakes(self.shrunk(x))
            if self.config.adversarial_weight:
                index = self.step * d_steps + k
                scalars = self.update_discriminator(x, fake.detach(), index)
        return scalars | self.update_upscaler(x, fake)

    def update_upscaler(self, x: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Part 2: G descends the weighted sum of its losses, judged by the D just updated."""
        self.optimizers["G"].zero_grad()
        with frozen(self.D) if self.config.adversarial_weight else nullcontext():
            terms, scalars = self.terms(x, fake)
            sum(term.weight * term.loss for term in terms.values()).backward()
        self.optimizers["G"].step()
        return scalars | {tag: term.loss.detach() for tag, term in terms.items()}

    def terms(self, x: Tensor, fake: Tensor) -> tuple[dict[str, Term], dict[str, Tensor]]:
        """What G minimises by its tags, and what is logged beside it.

        The reconstruction without a weight is a curve alone, the others are not computed then.
        """
        config, scalars = self.config, {}
        loss = self.reconstruction(fake, x)
        terms = {"reconstruction_loss": Term(config.reconstruction_weight, loss)}
        if config.adversarial_weight:
            logits = self.logits(self.augment(fake, "for G", self.step))
            scalars["D(G(z2))"] = mean_probability(logits)
            loss = self.loss.generator(logits)
            terms["generator_loss"] = Term(config.adversarial_weight, loss)
        if config.feature_matching_weight:
            loss = (
                difference(self.in_precision(self.D.features), x, fake).sum(1).mean()
            )  # over D's maps a mean
            terms["feature_matching_loss"] = Term(config.feature_matching_weight, loss)
        if config.perceptual_weight:
            loss = difference(self.in_precision(self.vgg_maps), x, fake).mean()
            terms["perceptual_loss"] = Term(config.perceptual_weight, loss)
        return terms, scalars

    def in_precision(self, features: Forward) -> Forward:
        """The features (N, ...) in float32, computed as --precision says."""

        def computed(x: Tensor) -> Tensor:
            with self.autocast:
                return features(x).float()

        return computed

    # Samples and scores

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
        norm = "none"
        if mixes_samples(self.G):
            norm = "running statistics"
            if self.averages:
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

    def evaluate(self, extractor: nn.Module) -> list[dict[str, Any]]:
        """MSE, PSNR, SSIM, LPIPS over all test images, beside what learns nothing."""
        return restoration_scores(self)
