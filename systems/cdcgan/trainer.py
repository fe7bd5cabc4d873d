"""The adversarial step and the sampling of a game about (x, y): an image and its labels.

`ConditionalGANTrainer` is GANTrainer with y beside z in G and beside x in D (networks.py), with
--g_steps updates of G a step, and with labels to sample for: those of the training set.
"""

import copy
from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import dataset
from dataset import Batch
from lib.distributed import shard
from lib.seeding import generator
from systems.cdcgan.networks import ConditionalDiscriminator, ConditionalGenerator
from trainer import GANTrainer
from training.config import GANConfig
from training.losses import mean_probability
from training.modes import Paired, frozen, in_training_form, sampling

Pair = tuple[Tensor, Tensor]  # z (N, latent_dim, 1, 1), y (N, L) float


class ConditionalGANTrainer(GANTrainer):
    """Its config has, besides GANConfig's settings, g_steps and auxiliary_weight."""

    G: ConditionalGenerator
    D: ConditionalDiscriminator

    def __init__(
        self,
        config: GANConfig,
        device: torch.device,
        *,
        G: ConditionalGenerator,
        D: ConditionalDiscriminator,
    ) -> None:
        super().__init__(config, device, G=G, D=D)
        self.play_D = in_training_form(self.D.scores, config, device)

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """--d_steps updates of D, then --g_steps of G, each on noise of its own.

        With --fresh_noise the first one of G too; else it learns from the fakes D has just seen.
        Logged are the first update of G, whose fakes come from the G that D has met, and the last.
        """
        self.set_learning_rates()
        config = self.config
        parts = zip(*(t.chunk(config.d_steps) for t in (batch.x, batch.y.float())), strict=True)
        for k, (x, y) in enumerate(parts):
            z = self.batch_noise(len(x), "noise", self.d_updates(k))
            fake, scalars = self.update_discriminator(x, z, y, part=k)
        with frozen(self.D):
            condition = self.D.condition(y)  # once: D and y are the same for all updates of G
            for k in range(config.g_steps):
                index = self.step * config.g_steps + k
                if k or config.fresh_noise:
                    z = self.batch_noise(len(y), "fresh noise", index)
                    fake = self.play_G(z, y)
                values = self.update_generator(fake, condition, y, index=index)
                scalars = values | scalars
        if self.average is not None:
            self.average.update_parameters(self.G)
        if config.g_steps > 1:
            scalars["generator_loss_last"] = values["generator_loss"]
        return scalars

    def update_discriminator(
        self, x: Tensor, z: Tensor, y: Tensor, *, part: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """D ascends log D(x, y) + log(1 - D(G(z, y), y)), or what --loss has in its place.

        A D that names labels learns them from real images alone: taught on fakes too it would
        forgive G's mistakes. Returns the fakes, through which G can learn unless --fresh_noise.
        """
        self.optimizers["D"].zero_grad()
        with torch.set_grad_enabled(not self.config.fresh_noise):
            fake = self.play_G(z, y)
        condition, index = self.D.condition(y), self.d_updates(part)
        x, seen = self.augment(x, "real", index), self.augment(fake.detach(), "fake", index)
        real_scores, fake_scores = self.play_D(x, condition), self.play_D(seen, condition)
        real_logits, fake_logits = real_scores[:, 0], fake_scores[:, 0]
        loss = self.loss.real(real_logits) + self.loss.fake(fake_logits)
        of_labels, named = self.label_loss(real_scores, y, "real")
        (loss + of_labels).backward()
        scalars = self.penalize(x, seen, part=part, logits=lambda image: self.D.logits(image, y))
        self.optimizers["D"].step()
        return fake, scalars | named | {
            "discriminator_loss": loss.detach(),
            "D(x)": mean_probability(real_logits),
            "D(G(z1))": mean_probability(fake_logits),
        }

    def update_generator(
        self, fake: Tensor, condition: Tensor, y: Tensor, *, index: int
    ) -> dict[str, Tensor]:
        """G ascends log D(G(z, y), y), or what --loss has, and the labels that D names."""
        self.optimizers["G"].zero_grad()
        scores = self.play_D(self.augment(fake, "for G", index), condition)
        loss = self.loss.generator(scores[:, 0])
        of_labels, named = self.label_loss(scores, y, "fake")
        (loss + of_labels).backward()
        self.optimizers["G"].step()
        return named | {
            "generator_loss": loss.detach(),
            "D(G(z2))": mean_probability(scores[:, 0]),
        }

    def label_loss(
        self, scores: Tensor, y: Tensor, of: str
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Weighted cross-entropy of L yes-or-no questions, summed over them, and its tag.

        Odena et al. 2017, eq. 3, has that of one class; 0 where D does not name labels.
        """
        if not self.D.named:
            return 0.0, {}
        loss = F.binary_cross_entropy_with_logits(scores[:, 1:], y, reduction="sum") / len(y)
        return self.config.auxiliary_weight * loss, {f"label_loss/{of}": loss.detach()}

    @cached_property
    def training_labels(self) -> Tensor:
        """(N, L) float on the CPU: what the images of the training set show."""
        return self.load_data("train").labels.float().cpu()

    def drawn_labels(self, n: int, purpose: str, seed: int) -> Tensor:
        """y (n, L) of training images drawn at random, with return; of (seed, purpose) alone."""
        labels = self.training_labels
        return labels[torch.randint(len(labels), (n,), generator=generator("cpu", purpose, seed))]

    def generate(self, n: int, seed: int, batch_size: int = 100) -> Iterator[Tensor]:
        """n images of noise and of training labels that depend on the seed alone."""
        return self.images_of(self.generated_pairs(n, seed, batch_size))

    def generate_share(self, n: int, seed: int, batch_size: int = 100) -> Iterator[Tensor]:
        pairs = self.generated_pairs(n, seed, batch_size)
        starts = range(0, n, batch_size)
        return self.images_of(
            (shard(z, i), shard(y, i)) for i, (z, y) in zip(starts, pairs, strict=True)
        )

    def generated_pairs(self, n: int, seed: int, batch_size: int) -> Iterator[Pair]:
        y = self.drawn_labels(n, "generated labels", seed)
        noise = self.generated_noise(n, seed, batch_size)
        return zip(noise, y.split(batch_size), strict=True)

    def images_of(self, pairs: Iterable[Pair], G: nn.Module | None = None) -> Iterator[Tensor]:
        """Batches of uint8 images, one a pair; of another G than the one that is sampled."""
        G = self.sampled_generator() if G is None else G
        for z, y in pairs:
            with sampling(G):
                images = dataset.to_bytes(G(z.to(self.device), y.to(self.device)))
            yield images  # outside the block, which would else hold for the consumer too

    def sampled_generator(self) -> nn.Module:
        """As GANTrainer's: the statistics of an average are of 2000 noises and training labels."""
        if self.average is None:
            return self.G
        G = copy.deepcopy(self.average.module)
        labels = self.drawn_labels(2000, "statistics labels", self.config.seed).split(100)
        noise = (self.noise(100, "statistics", i, device="cpu") for i in range(len(labels)))
        pairs = (
            [(z.to(self.device), y.to(self.device))] for z, y in zip(noise, labels, strict=True)
        )
        with torch.no_grad():
            update_bn(pairs, Paired(G))
        return G
