"""What a generator makes of noise: grids that never change, and images to be scored."""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.utils import make_grid

import dataset
from lib.distributed import shard, world
from lib.seeding import generator
from training.config import GANConfig
from training.modes import Average, sampling


class GeneratesFromNoise:
    """A trainer's `generate` and each rank's share of it, by `images_of` batches of z."""

    z_shape: tuple[int, ...]  # of one z

    def images_of(self, noise: Iterable[Tensor]) -> Iterator[Tensor]:
        """Batches of uint8 images, one a batch of z."""
        raise NotImplementedError

    def generate(self, n: int, seed: int, batch_size: int = 100) -> Iterator[Tensor]:
        """n images from noise that depends on the seed alone, in eval mode."""
        return self.images_of(self.generated_noise(n, seed, batch_size))

    def generate_share(self, n: int, seed: int, batch_size: int = 100) -> Iterator[Tensor]:
        noise = self.generated_noise(n, seed, batch_size)
        return self.images_of(shard(z, i * batch_size) for i, z in enumerate(noise))

    def generated_noise(self, n: int, seed: int, batch_size: int) -> Iterator[Tensor]:
        stream = generator("cpu", "generate", seed)
        for start in range(0, n, batch_size):
            yield torch.randn(min(batch_size, n - start), *self.z_shape, generator=stream)


class FromNoise(GeneratesFromNoise):
    """GANTrainer's half that draws z and samples G, or G's average."""

    config: GANConfig
    device: torch.device
    G: nn.Module
    average: Average | None

    @property
    def z_shape(self) -> tuple[int, ...]:
        return self.config.latent_dim, 1, 1

    def noise(self, n: int, purpose: str, index: int, *, device: str | None = None) -> Tensor:
        """z (n, latent_dim, 1, 1) ~ N(0, I), a function of (seed, purpose, index)."""
        device = device or self.device
        stream = generator(device, purpose, self.config.seed, index)
        return torch.randn(n, self.config.latent_dim, 1, 1, generator=stream, device=device)

    def batch_noise(self, n: int, purpose: str, index: int) -> Tensor:
        """This rank's n rows of a batch's noise: all ranks together draw as one would alone."""
        return shard(self.noise(n * world(), purpose, index))

    def sample_images(self) -> dict[str, Tensor]:
        """An 8x8 grid from 64 noise vectors that never change."""
        z = self.noise(64, "fixed noise", 0, device="cpu").to(self.device)
        G = self.sampled_generator()
        with sampling(G):
            return {"samples": make_grid(G(z), nrow=8, padding=2, pad_value=-1.0)}

    def images_of(self, noise: Iterable[Tensor]) -> Iterator[Tensor]:
        """Batches of uint8 images, one a batch of z."""
        G = self.sampled_generator()
        for z in noise:
            with sampling(G):
                images = dataset.to_bytes(G(z.to(self.device)))
            yield images  # outside the block, which would else hold for the consumer too

    def sampled_generator(self) -> nn.Module:
        """G, or with --ema a copy of its average with BatchNorm statistics of its own.

        What BatchNorm has seen belongs to other weights than the averaged ones, so it is
        re-estimated: 2000 images of noise that never changes.
        """
        if self.average is None:
            return self.G
        G = copy.deepcopy(self.average.module)
        batches = (self.noise(100, "statistics", i, device="cpu") for i in range(20))
        with torch.no_grad():
            update_bn((z.to(self.device) for z in batches), G)
        return G

    def sampling_mode(self) -> dict[str, str | bool]:
        if self.average is None:
            return {"ema": False, "batchnorm": "running statistics"}
        return {"ema": True, "batchnorm": "re-estimated on 2000 generated images"}
