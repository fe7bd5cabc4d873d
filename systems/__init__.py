"""The systems beside the DCGAN, by the name that --model takes."""

from collections.abc import Callable
from functools import cache

import torch

from lib.config import Config
from lib.seeding import global_stream
from trainer import Trainer

Build = Callable[[Config, torch.device], Trainer]


class System:
    """A model's settings and what builds it, imported when they are first asked for."""

    def __init__(self, load: Callable[[], tuple[type[Config], Build]]) -> None:
        self.parts = cache(load)

    @property
    def config_class(self) -> type[Config]:
        return self.parts()[0]

    def build(self, config: Config, device: torch.device) -> Trainer:
        with global_stream("weights", config.seed):  # drawn on the CPU: alike on every device
            return self.parts()[1](config, device)


def cdcgan() -> tuple[type[Config], Build]:
    from systems.cdcgan.trainer import CDCGAN, CDCGANConfig

    return CDCGANConfig, CDCGAN


def cyclegan() -> tuple[type[Config], Build]:
    from systems.cyclegan.trainer import CycleGAN, CycleGANConfig

    return CycleGANConfig, CycleGAN


def biggan() -> tuple[type[Config], Build]:
    from systems.biggan.trainer import BigGAN, BigGANConfig

    return BigGANConfig, BigGAN


def vae() -> tuple[type[Config], Build]:
    from systems.vae.trainer import VAE, VAEConfig

    return VAEConfig, VAE


def srgan() -> tuple[type[Config], Build]:
    from systems.srgan.trainer import SRGAN, SRGANConfig

    return SRGANConfig, SRGAN


OTHERS = {load.__name__: System(load) for load in (cdcgan, cyclegan, biggan, vae, srgan)}
