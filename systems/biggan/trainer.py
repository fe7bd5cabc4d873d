"""The step and the sampling of a game about (x, y): an image and its class.

`ClassConditionalTrainer` is GANTrainer with y beside z in G and beside x in D (networks.py), with
gradients that accumulate over several batches, and with truncated sampling.
"""

import copy
from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.utils import make_grid

from dataset import Batch, Batches, ImageData, to_bytes
from lib.distributed import shard, world
from lib.errors import UserError
from lib.seeding import generator
from systems.biggan.networks import BigGANGenerator, ProjectionDiscriminator
from systems.biggan.sampling import balanced, draw
from systems.biggan.spectral import orthogonal_penalty
from trainer import GANTrainer
from training.config import GANConfig
from training.losses import mean_probability
from training.modes import Paired, frozen, sampling

Pair = tuple[Tensor, Tensor]  # z (N, latent_dim), y (N,)
ROWS = 8  # of the grid of samples; a class a column, up to COLUMNS of them
COLUMNS = 16
STATISTICS = 2000  # images from which BatchNorm's statistics are re-estimated
AT_ONCE = 100  # images in a forward pass of sampling


class ClassConditionalTrainer(GANTrainer):
    """Its config has, besides GANConfig's settings, accumulate, orthogonal_weight, truncation."""

    G: BigGANGenerator
    D: ProjectionDiscriminator
    slope_bounds = "--penalty gp, or --spectral_norm both"

    def __init__(
        self,
        config: GANConfig,
        device: torch.device,
        *,
        G: BigGANGenerator,
        D: ProjectionDiscriminator,
    ) -> None:
        super().__init__(config, device, G=G, D=D)
        self.sampled: dict[float, nn.Module] = {}  # by truncation, of the weights as they are

    @cached_property
    def training_data(self) -> ImageData:
        """UserError where a class has no image left, which G would be asked for all the same."""
        data = self.load_data("train")
        counts = data.labels.bincount(minlength=self.num_classes).tolist()
        empty = [name for name, n in zip(data.class_names, counts, strict=True) if not n]
        if empty:
            raise UserError(
                f"no training image of class {', '.join(empty[:5])}{', ...' if empty[5:] else ''}"
                " can be used: all are too small or unreadable. Add some, take the class's folder"
                " out, or choose another --small_images."
            )
        return data

    @property
    def num_classes(self) -> int:
        return self.G.shared.num_embeddings

    def batches(self) -> Batches:
        """As many images a step as its D updates take together."""
        config = self.config
        batch_size = config.d_steps * config.accumulate * config.batch_size
        return Batches(self.training_data, batch_size=batch_size, seed=config.seed)

    # A step

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """--d_steps updates of D, each on images of its own, then one of G.

        A step of every power iteration goes before each update of its network. G learns from the
        fakes that D has just seen, unless --fresh_noise or --accumulate has it make its own.
        """
        self.sampled.clear()
        self.set_learning_rates()
        self.G.advance()
        parts = zip(*(t.chunk(self.config.d_steps) for t in batch), strict=True)
        for k, (x, y) in enumerate(parts):
            fakes, scalars = self.update_discriminator(x, y, part=k)
        return scalars | self.update_generator(fakes)

    @property
    def keeps_fakes(self) -> bool:
        """Whether D's last fakes keep their graph, for G: at most one batch does at a time."""
        return self.config.accumulate == 1 and not self.config.fresh_noise

    def update_discriminator(
        self, images: Tensor, classes: Tensor, *, part: int
    ) -> tuple[list[Pair], dict[str, Tensor]]:
        """D ascends min(0, D(x, y) - 1) + min(0, -1 - D(G(z, y'), y')), or what --loss has.

        y' is drawn evenly from the classes. The mean of --accumulate batches' gradients is that of
        one batch of all their images. Returns the last batch's (G(z, y'), y').
        """
        k, index = self.config.accumulate, self.d_updates(part)
        self.D.advance()
        self.optimizers["D"].zero_grad()
        found = []
        for j, (x, z, y, drawn) in enumerate(self.in_batches(images, classes, index)):
            with torch.set_grad_enabled(self.keeps_fakes):
                fake = self.play_G(z, drawn)
            x = self.augment(x, "real", index * k + j)
            seen = self.augment(fake.detach(), "fake", index * k + j)
            logits = self.play_D(torch.cat((x, seen)), torch.cat((y, drawn)))
            real_logits, fake_logits = logits.split(len(x))
            loss = self.loss.real(real_logits) + self.loss.fake(fake_logits)
            (loss / k).backward()
            found.append(values(loss, real_logits, fake_logits))
        # one of the batches stands for all: the penalty is a mean over images too
        scalars = self.penalize(x, seen, part=part, logits=lambda image: self.D.logits(image, y))
        self.optimizers["D"].step()
        return [(fake, drawn)], scalars | mean_of(found)

    def in_batches(
        self, images: Tensor, classes: Tensor, index: int
    ) -> Iterator[tuple[Tensor, ...]]:
        """(x, z, y, y') of each of --accumulate batches: images with noise, classes with drawn."""
        z, drawn = self.drawn(len(images), "noise", index)
        parts = (t.chunk(self.config.accumulate) for t in (images, z, classes, drawn))
        return zip(*parts, strict=True)

    def update_generator(self, fakes: list[Pair]) -> dict[str, Tensor]:
        """G ascends D(G(z, y), y), or what --loss has, as the D just updated judges it."""
        k = self.config.accumulate
        self.optimizers["G"].zero_grad()
        found = []
        with frozen(self.D):
            for j, (fake, y) in enumerate(fakes if self.keeps_fakes else self.new_fakes(k)):
                logits = self.play_D(self.augment(fake, "for G", self.step * k + j), y)
                loss = self.loss.generator(logits)
                (loss / k).backward()
                found.append(
                    {"generator_loss": loss.detach(), "D(G(z2))": mean_probability(logits)}
                )
        scalars = self.keep_orthogonal()
        self.optimizers["G"].step()
        if self.average is not None:
            self.average.update_parameters(self.G)
        return scalars | mean_of(found)

    def new_fakes(self, k: int) -> Iterator[Pair]:
        """k batches (G(z, y), y) that D has not seen, made one at a time."""
        n = k * self.config.batch_size // world()
        for z, y in zip(
            *(t.chunk(k) for t in self.drawn(n, "fresh noise", self.step)), strict=True
        ):
            yield self.play_G(z, y), y

    def keep_orthogonal(self) -> dict[str, Tensor]:
        """The gradient of G's orthogonal regularisation, where it has a weight."""
        weight = self.config.orthogonal_weight
        if not weight:
            return {}
        penalty = orthogonal_penalty(self.G.regularized())
        (weight * penalty).backward()
        return {"orthogonal_penalty": penalty.detach()}

    # What is drawn

    def noise(self, n: int, purpose: str, index: int, *, device: str | None = None) -> Tensor:
        """z (n, latent_dim), a function of (seed, purpose, index)."""
        return super().noise(n, purpose, index, device=device).flatten(1)

    def drawn(self, n: int, purpose: str, index: int) -> Pair:
        """This rank's n rows of z, and of classes that are drawn evenly."""
        stream = generator(self.device, f"{purpose}, classes", self.config.seed, index)
        size = (n * world(),)
        y = torch.randint(self.num_classes, size, generator=stream, device=self.device)
        return self.batch_noise(n, purpose, index), shard(y)

    def draw_z(self, n: int, seed: int, *, truncation: float = 0.0) -> Tensor:
        """z (n, latent_dim) on the CPU: N(0, I), or with a truncation given that |z_i| <= it."""
        return draw(n, self.config.latent_dim, generator("cpu", "z", seed), truncation)

    # Sampling

    def embeddings(self) -> Tensor:
        """The class vectors (K, embedding_dim) of the G that is sampled, float32 on the CPU."""
        G = self.G if self.average is None else self.average.module
        return G.shared.weight.detach().float().cpu().clone()

    def images_of(self, z: Tensor, r: Tensor, *, truncated: float | None = None) -> Tensor:
        """Images (N, C, S, S) in [-1, 1] of z and of class vectors r (N, embedding_dim).

        truncated: how far z is cut off (0: not at all; None: as --truncation has it), for which
        BatchNorm gets statistics of its own.
        """
        G = self.sampled_generator(truncated)
        parts = zip(z.split(AT_ONCE), r.split(AT_ONCE), strict=True)
        with sampling(G):
            return torch.cat([G.of_vectors(a.to(self.device), b.to(self.device)) for a, b in parts])

    def sample_images(self) -> dict[str, Tensor]:
        """A class a column, a z a row, from 8 noise vectors that never change."""
        columns = min(self.num_classes, COLUMNS)
        z = self.noise(ROWS, "fixed noise", 0, device="cpu").repeat_interleave(columns, 0)
        y = torch.arange(columns).repeat(ROWS)
        images = self.images_of(z, self.embeddings()[y], truncated=0.0)
        return {"samples": make_grid(images, nrow=columns, padding=2, pad_value=-1.0)}

    def labels_of_generated(self, n: int, seed: int) -> Tensor:
        """The classes (n,) of the images that generate(n, seed) gives, in their order."""
        return balanced(n, self.num_classes, "generated classes", seed)

    def generate(self, n: int, seed: int, batch_size: int = AT_ONCE) -> Iterator[Tensor]:
        """n images of all classes alike, z truncated as --truncation has it; of the seed alone."""
        return self.bytes_of(self.generated_pairs(n, seed, batch_size))

    def generate_share(self, n: int, seed: int, batch_size: int = AT_ONCE) -> Iterator[Tensor]:
        pairs = enumerate(self.generated_pairs(n, seed, batch_size))
        return self.bytes_of(
            (shard(z, i * batch_size), shard(y, i * batch_size)) for i, (z, y) in pairs
        )

    def generated_pairs(self, n: int, seed: int, batch_size: int) -> Iterator[Pair]:
        config, stream = self.config, generator("cpu", "generate", seed)
        for part in self.labels_of_generated(n, seed).split(batch_size):
            yield draw(len(part), config.latent_dim, stream, config.truncation), part

    def bytes_of(self, pairs: Iterable[Pair]) -> Iterator[Tensor]:
        """Batches of uint8 images, one a pair."""
        embeddings = self.embeddings()
        for z, y in pairs:
            yield to_bytes(self.images_of(z, embeddings[y]))

    def sampled_generator(self, truncation: float | None = None) -> BigGANGenerator:
        """G, or with --ema its average; BatchNorm's statistics are those of what is sampled.

        What it saw in training belongs to other weights than the averaged ones, and to a z that is
        not cut off. Where either differs they are re-estimated from 2000 noises, truncated alike,
        and evenly drawn classes ("standing statistics": Brock et al. 2018, sec. 3.1, app. D).
        """
        truncation = self.config.truncation if truncation is None else truncation
        if self.average is None and not truncation:
            return self.G
        if truncation not in self.sampled:
            G = copy.deepcopy(self.G if self.average is None else self.average.module)
            y = balanced(STATISTICS, self.num_classes, "statistics classes", self.config.seed)
            stream = generator("cpu", "statistics", self.config.seed)
            parts = y.split(AT_ONCE)
            noise = (draw(len(p), self.config.latent_dim, stream, truncation) for p in parts)
            pairs = zip(noise, parts, strict=True)
            with torch.no_grad():
                update_bn(([(z.to(self.device), y.to(self.device))] for z, y in pairs), Paired(G))
            self.sampled[truncation] = G
        return self.sampled[truncation]

    def resume(self) -> bool:
        self.sampled.clear()
        return super().resume()

    def sampling_mode(self) -> dict[str, str | bool | float]:
        mode = super().sampling_mode() | {"truncation": self.config.truncation}
        if self.config.truncation:
            mode["batchnorm"] = f"re-estimated on {STATISTICS} generated images"
        return mode


def values(loss: Tensor, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    return {
        "discriminator_loss": loss.detach(),
        "D(x)": mean_probability(real_logits),
        "D(G(z1))": mean_probability(fake_logits),
    }


def mean_of(found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Each tag's mean over the batches of an update."""
    return {tag: torch.stack([values[tag] for values in found]).mean() for tag in found[0]}
