"""Super-resolution 16x16 -> 64x64 by a reconstruction and an adversarial loss. docs/srgan.md.

The step is GANTrainer's with a small image in the place of z; the parts are in superres/.
"""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.utils import make_grid

from config import setting
from dataset import DATASETS, Batch, Batches, ImageData, num_channels, order, to_signed
from distributed import in_turn, rank
from errors import UserError
from GAN import INITS, NORMS
from gan_config import GANConfig
from losses import mean_probability
from modes import Forward, frozen, in_training_form, mixes_samples, sampling
from perceptual import BACKBONES, VGG_LAYERS, load_vgg_maps
from seeding import global_stream, key_seed
from sources.data_config import DataConfig
from sources.data_spec import NoTestSplit
from sources.user_files import check_request
from superres.files import upscale_files
from superres.losses import RECONSTRUCTIONS, difference
from superres.networks import GENERATORS, Discriminator
from superres.resampling import DOWNSAMPLINGS, enlarge, shrink
from superres.scores import restoration_scores
from trainer import GANTrainer

STATISTICS = 2000  # training images that BatchNorm is re-estimated on for --ema

PRESETS: dict[str, dict[str, Any]] = {
    # CIS 680 2019, assignment 4, part 3 (spec row 13): its networks, 1:1, BCE, batch 32, Adam at
    # 2e-4, 100 epochs of 20,000 images. It leaves open which pixel-wise loss, Adam's betas and the
    # kernel that shrinks.
    "course": {
        "arch": "unet",
        "generator_hidden_dim": 32,
        "discriminator_hidden_dim": 32,
        "reconstruction": "squared",
        "reconstruction_weight": 1.0,
        "adversarial_weight": 1.0,
        "loss": "bce",
        "batch_size": 32,
        "learning_rate": 2e-4,
        "num_training_steps": 62_500,  # 100 epochs x 20,000 images / 32
    },
    # Ours, chosen by what is known of such games and NOT searched: SRResNet in EDSR's form, VGG16's
    # maps (Ledig et al. 2017), a D without BatchNorm under spectral norm with the hinge (Miyato et
    # al. 2018), its maps matched (Wang et al. 2018), an average of G's weights. The weights make
    # the gradients at G's image 1 : 0.6 : 0.1 : 0.7 in size, as measured on the course's nets.
    "best": {
        "arch": "residual",
        "generator_hidden_dim": 64,
        "residual_blocks": 8,
        "reconstruction": "euclidean",
        "reconstruction_weight": 1.0,
        "adversarial_weight": 0.3,
        "feature_matching_weight": 5.0,
        "perceptual_weight": 5.0,
        "loss": "hinge",
        "d_norm": "none",
        "spectral_norm": True,
        "init": "scaled",
        "ema": 0.995,
        "batch_size": 16,
        "num_training_steps": 125_000,
    },
}


@dataclass(frozen=True, kw_only=True)
class SRGANConfig(GANConfig, DataConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    dataset: str = setting(
        "stl10",
        "images to learn from (docs/data.md)",
        group="data",
        tag="{}",
        choices=tuple(DATASETS),
    )
    image_size: int = setting(
        64,
        "side of a large image in pixels; the small one has a quarter of it",
        group="data",
        tag="{}px",
        choices=(32, 64, 128, 256),
    )
    downsample: str = setting(
        "bilinear",
        "kernel that shrinks an image, antialiased; it is enlarged bilinearly for the unet",
        group="data",
        choices=DOWNSAMPLINGS,
    )
    batch_size: int = setting(
        32, "images a step, of all processes together", group="training", tag="b{}", at_least=2
    )
    num_training_steps: int = setting(
        62_500,
        "steps, counted from the start of the run",
        group="training",
        role="free",
        at_least=1,
    )
    arch: str = setting(
        "unet",
        "G: the course's encoder-decoder with skips, or residual blocks on the small image",
        group="networks",
        choices=tuple(GENERATORS),
    )
    generator_hidden_dim: int = setting(
        32,
        "channels of G's first feature map (unet: the last of the encoder has 16 times as many)",
        group="networks",
        tag="g{}",
        at_least=2,
    )
    residual_blocks: int = setting(8, "of --arch residual", group="networks", at_least=1)
    discriminator_hidden_dim: int = setting(
        32,
        "channels of D's first feature map; the last has 16 times as many",
        group="networks",
        tag="d{}",
        at_least=1,
    )
    init: str = setting(
        "normal",
        "of convolutions: N(0, 0.02), or scaled by the layer's fan-in; not of --arch residual",
        group="networks",
        choices=tuple(INITS),
    )
    d_norm: str = setting(
        "batch", "normalisation in D; none gives it biases", group="networks", choices=tuple(NORMS)
    )
    spectral_norm: bool = setting(
        False, "divide D's weights by their largest singular value", group="networks"
    )
    reconstruction: str = setting(
        "squared",
        "squared: sum over an image of (x - G)^2 in [0, 1]; euclidean: |x - G|_2 in [-1, 1]; mse,"
        " l1: mean over pixels of the squared or absolute error in [-1, 1]",
        group="game",
        choices=tuple(RECONSTRUCTIONS),
    )
    reconstruction_weight: float = setting(
        1.0, "of the reconstruction loss in G's", group="game", at_least=0
    )
    adversarial_weight: float = setting(
        1.0,
        "of the adversarial loss in G's; 0: there is no D, whatever its settings, and G minimises"
        " the rest",
        group="game",
        at_least=0,
    )
    feature_matching_weight: float = setting(
        0.0,
        "of the mean |difference| of D's maps of the true image and of G's (pix2pixHD)",
        group="game",
        at_least=0,
    )

    perceptual_weight: float = setting(
        0.0,
        "of the mean |difference| of VGG16's maps of the true image and of G's; its weights are"
        " fetched (64 MB)",
        group="game",
        at_least=0,
    )
    perceptual_layer: str = setting(
        "relu2_2", "whose maps those are", group="game", choices=tuple(VGG_LAYERS)
    )
    lpips_net: str = setting(
        "alex",
        "network of the score LPIPS; alex is the one to report",
        group="scoring",
        role="free",
        choices=tuple(BACKBONES),
    )
    upscale: str = setting(
        "",
        'pictures to enlarge 4 times by the trained run: a folder, a file, or "a/*.png", quoted',
        group="what to do",
        role="once",
    )
    out: str = setting("", "of --upscale: where they go", group="what to do", role="once")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_request("--upscale", self.upscale, self.out)
        if self.fresh_noise:
            raise UserError("--fresh_noise: G has no noise here, but small images. Leave it out.")
        if not self.adversarial_weight and self.d_steps > 1:
            raise UserError(
                f"--d_steps {self.d_steps}: --adversarial_weight 0 has no D. Leave one of the two"
                " out."
            )
        if not self.adversarial_weight and self.feature_matching_weight:
            raise UserError(
                f"--feature_matching_weight {self.feature_matching_weight} compares maps of D, and"
                " --adversarial_weight 0 trains none. Leave one of the two out."
            )
        if not self.adversarial_weight and self.penalty != "none" and self.d_norm == "batch":
            raise UserError(
                f"--penalty {self.penalty}: --adversarial_weight 0 has no D. Leave one of the two"
                " out."
            )
        if self.arch == "unet" and self.residual_blocks != SRGANConfig.residual_blocks:
            raise UserError(
                f"--residual_blocks {self.residual_blocks}: --arch unet has none. Add --arch"
                " residual, or leave it out."
            )
        if not self.perceptual_weight and self.perceptual_layer != SRGANConfig.perceptual_layer:
            raise UserError(
                f"--perceptual_layer {self.perceptual_layer}: there is no perceptual loss. Add"
                " --perceptual_weight, or leave it out."
            )
        if not (self.adversarial_weight or self.reconstruction_weight or self.perceptual_weight):
            raise UserError("G has no loss: give a --reconstruction_weight above 0.")

    @property
    def request(self) -> str:
        return "--upscale" if self.upscale else ""


class Term(NamedTuple):
    """A part of what G minimises: weight times loss."""

    weight: float
    loss: Tensor


class SRGAN(GANTrainer):
    """G enlarges, D tells its images from true ones."""

    config_class = SRGANConfig
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
        self.play_features = in_training_form(self.D.features, config, device)
        self.reconstruction = RECONSTRUCTIONS[config.reconstruction]
        if not config.adversarial_weight:
            del self.networks["D"], self.optimizers["D"]
            self.bar_tags, self.line_form = ("reconstruction_loss",), ""

    @cached_property
    def play_maps(self) -> Forward:
        """VGG16's maps, in the form in which G trains; fetched when a step first asks for them."""
        maps = in_turn(lambda: load_vgg_maps(self.device, self.config.perceptual_layer))
        return in_training_form(maps, self.config, self.device)

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

    def batches(self) -> Batches:
        self.held_out()  # if the test images are damaged, then before the first step
        return super().batches()

    def shrunk(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, C, S/4, S/4), both in [-1, 1], as --downsample has it."""
        return shrink(x, self.config.downsample)

    # A step

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """--d_steps updates of D, then one of G on the images that D saw last."""
        self.set_learning_rates()
        scalars, d_steps = {}, self.config.d_steps
        for k, x in enumerate(batch.x.chunk(d_steps)):
            low = self.shrunk(x)
            if self.config.adversarial_weight:
                index = self.step * d_steps + k
                fake, scalars = self.update_discriminator(x, low, index=index)
            else:
                fake = self.play_G(low)
        return scalars | self.update_upscaler(x, fake)

    def update_upscaler(self, x: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Part 2: G descends the weighted sum of its losses, judged by the D just updated."""
        self.optimizers["G"].zero_grad()
        with frozen(self.D) if self.config.adversarial_weight else nullcontext():
            terms, scalars = self.terms(x, fake)
            sum(term.weight * term.loss for term in terms.values()).backward()
        self.optimizers["G"].step()
        if self.average is not None:
            self.average.update_parameters(self.G)
        return scalars | {tag: term.loss.detach() for tag, term in terms.items()}

    def terms(self, x: Tensor, fake: Tensor) -> tuple[dict[str, Term], dict[str, Tensor]]:
        """What G minimises by its tags, and what is logged beside it.

        The reconstruction without a weight is a curve alone, the others are not computed then.
        """
        config, scalars = self.config, {}
        loss = self.reconstruction(fake, x)
        terms = {"reconstruction_loss": Term(config.reconstruction_weight, loss)}
        if config.adversarial_weight:
            logits = self.play_D(self.augment(fake, "for G", self.step))
            scalars["D(G(z2))"] = mean_probability(logits)
            loss = self.loss.generator(logits)
            terms["generator_loss"] = Term(config.adversarial_weight, loss)
        if config.feature_matching_weight:
            loss = difference(self.play_features, x, fake).sum(1).mean()  # over D's maps a mean
            terms["feature_matching_loss"] = Term(config.feature_matching_weight, loss)
        if config.perceptual_weight:
            loss = difference(self.play_maps, x, fake).mean()
            terms["perceptual_loss"] = Term(config.perceptual_weight, loss)
        return terms, scalars

    def penalize(self, x: Tensor, fake: Tensor, *, index: int) -> dict[str, Tensor]:
        """Of the mean over an image's patches, as the losses take it, not of their sum."""
        return super().penalize(x, fake, index=index, logits=self.D.mean_logits)

    # Samples and scores

    def upscaled(self, low: Tensor, G: nn.Module | None = None) -> Tensor:
        """low (N, C, s, s) in [-1, 1] -> (N, C, 4s, 4s), by G in eval mode."""
        G = G or self.sampled_generator()
        with sampling(G):
            return G(low.to(self.device, memory_format=torch.channels_last))

    def sampled_generator(self) -> nn.Module:
        """G, or with --ema its average: with BatchNorm a copy that has statistics of its own."""
        if self.average is None:
            return self.G
        if not mixes_samples(self.G):
            return self.average.module
        G = copy.deepcopy(self.average.module)
        batches = self.load_data("train").images[:STATISTICS].split(100)
        with torch.no_grad():
            update_bn((self.shrunk(to_signed(x).to(self.device)) for x in batches), G)
        return G

    def sampling_mode(self) -> dict[str, str | bool]:
        norm = "none"
        if mixes_samples(self.G):
            norm = "running statistics"
            if self.average is not None:
                n = min(STATISTICS, len(self.load_data("train")))
                norm = f"re-estimated on {n} training images"
        return {"ema": self.average is not None, "batchnorm": norm}

    def generated_noise(self, n: int, seed: int, batch_size: int) -> Iterator[Tensor]:
        """In place of z: test images, shrunk, in the seed's order; beyond their number anew."""
        images = self.held_out()[0].images
        chosen = order(len(images), key_seed("generate", seed), 0).repeat(n // len(images) + 1)
        for indices in chosen[:n].to(images.device).split(batch_size):
            yield self.shrunk(to_signed(images[indices]))

    def sample_images(self) -> dict[str, Tensor]:
        """Ten test images that never change, a row each: input (bilinear), output, truth.

        And the first of them alone, whose stages scripts/evolution.py puts into one strip.
        """
        images = self.held_out()[0].images
        chosen = order(len(images), key_seed("samples"), 0)[:10].to(images.device)
        x = to_signed(images[chosen]).to(self.device)
        low = self.shrunk(x)
        rows = torch.stack([enlarge(low), self.upscaled(low), x], 1)
        return {
            tag: make_grid(some.flatten(0, 1), nrow=3, padding=2, pad_value=-1.0)
            for tag, some in (("samples", rows), ("fixed_input", rows[:1]))
        }

    def evaluate(self, extractor: nn.Module) -> list[dict[str, Any]]:
        """MSE, PSNR, SSIM, LPIPS over all test images, beside what learns nothing."""
        return [] if rank() else restoration_scores(self)  # rank 0 speaks for all

    def serve(self) -> None:
        upscale_files(self)
