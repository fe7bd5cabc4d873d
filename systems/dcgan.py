"""DCGAN (Radford et al. 2016) on MNIST at 32x32 with the BCE loss: the main job. docs/dcgan.md."""

from dataclasses import dataclass

import torch

from config import setting
from dataset import DATASETS
from digits import load_digits
from errors import UserError
from GAN import (
    ARCHITECTURES,
    IMAGE_SIZES,
    INITS,
    NORMS,
    UPSAMPLINGS,
    get_discriminator,
    get_generator,
)
from gan_config import GANConfig
from runlog import RunLog
from seeding import global_stream
from trainer import GANTrainer

WATCHED = 500  # images a look of --collapse_every: a share of 10 % is known to within 3 %


@dataclass(frozen=True, kw_only=True)
class DCGANConfig(GANConfig):
    dataset: str = setting(
        "mnist", "images to learn from", group="data", tag="{}", choices=tuple(DATASETS)
    )
    image_size: int = setting(
        32, "side of an image in pixels", group="data", tag="{}px", choices=IMAGE_SIZES
    )
    arch: str = setting(
        "cnn",
        "convolutions, or linear layers alone (mlp) with about as many parameters",
        group="networks",
        choices=tuple(ARCHITECTURES),
    )
    latent_dim: int = setting(16, "size of z", group="networks", tag="z{}", at_least=1)
    generator_hidden_dim: int = setting(
        16, "channels of G's largest feature map", group="networks", tag="g{}", at_least=1
    )
    discriminator_hidden_dim: int = setting(
        16, "channels of D's largest feature map", group="networks", tag="d{}", at_least=1
    )
    init: str = setting(
        "normal",
        "of convolutions: N(0, 0.02), or scaled by the layer's fan-in (a D without norm needs it)",
        group="networks",
        choices=tuple(INITS),
    )
    upsample: str = setting(
        "transposed",
        "how G's images grow: transposed convolutions, or nearest upsampling and a convolution",
        group="networks",
        choices=UPSAMPLINGS,
    )
    d_norm: str = setting(
        "batch", "normalisation in D; none gives it biases", group="networks", choices=tuple(NORMS)
    )
    spectral_norm: bool = setting(
        False, "divide D's weights by their largest singular value", group="networks"
    )
    collapse_every: int = setting(
        0,
        "steps between two looks at which digits G makes (docs/collapse.md); 0: none",
        group="logging",
        role="free",
        at_least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, only in (("upsample", "transposed"), ("d_norm", "batch")):
            if self.arch == "mlp" and getattr(self, name) != only:
                raise UserError(
                    f"--{name} {getattr(self, name)} is a choice among convolutions:"
                    " --arch mlp has none. Leave one of the two out."
                )
        if self.collapse_every and self.dataset != "mnist":
            raise UserError(
                f"--collapse_every {self.collapse_every}: the classifier knows only the digits of"
                f" MNIST, not {self.dataset}. Leave the flag out."
            )


class DCGAN(GANTrainer):
    config_class = DCGANConfig

    def __init__(self, config: DCGANConfig, device: torch.device) -> None:
        with global_stream("weights", config.seed):  # drawn on the CPU: alike on every device
            G = get_generator(
                1,
                config.latent_dim,
                config.generator_hidden_dim,
                device,
                image_size=config.image_size,
                arch=config.arch,
                init=config.init,
                upsample=config.upsample,
            )
            D = get_discriminator(
                1,
                config.discriminator_hidden_dim,
                device,
                image_size=config.image_size,
                arch=config.arch,
                init=config.init,
                norm=config.d_norm,
                spectral_norm=config.spectral_norm,
            )
        super().__init__(config, device, G=G, D=D)
        self.classifier = load_digits(device) if config.collapse_every else None

    def watch(self, log: RunLog, scalars: dict[str, float] | None) -> None:
        """Every --collapse_every steps: how often G makes each digit. docs/collapse.md."""
        super().watch(log, scalars)
        every = self.config.collapse_every
        if every and self.step % every == 0:
            from digits.watch import digit_panel  # here: matplotlib would slow every start

            images = torch.cat(list(self.generate(WATCHED, self.config.seed)))
            values, panel = digit_panel(images, self.classifier, f"step {self.step:,}")
            log.scalars(values, self.step)
            log.images({"collapse/digits": panel}, self.step)
