"""BigGAN (Brock et al. 2018): images of a class that is asked for. docs/biggan.md.

MNIST at 32x32 is what a CPU trains. The step is GANTrainer's with y beside z in G and beside x in
D, with gradients that accumulate over several batches, and with truncated sampling.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dataset import Batch, ImageData, class_names, num_channels
from lib.errors import UserError
from lib.results import Result
from lib.runlog import make_grid
from lib.seeding import generator, stream
from systems.biggan.config import NORMALIZED, BigGANConfig
from systems.biggan.networks import LAYOUTS, BigGANGenerator, ProjectionDiscriminator
from systems.biggan.scores import digit_scores, inception_scores
from systems.biggan.spectral import orthogonal_penalty
from trainer import AT_ONCE, STATISTICS, GANTrainer, Scalars
from training.config import set_rates
from training.ema import Inputs, fresh_statistics
from training.losses import judgement, mean_probability
from training.modes import frozen, sampling

Pair = tuple[Tensor, Tensor]  # z (N, latent_dim), y (N,)
ROWS = 8  # of the grid of samples; a class a column, up to COLUMNS of them
COLUMNS = 16


class BigGAN(GANTrainer):
    """A game about (x, y): an image and its class y (N,)."""

    config: BigGANConfig
    G: BigGANGenerator
    D: ProjectionDiscriminator
    slope_bounds = "--penalty gp, or --spectral_norm both"

    def __init__(self, config: BigGANConfig, device: torch.device) -> None:
        self.class_names = list(class_names(config))
        self.num_classes = len(self.class_names)
        if self.num_classes < 2:
            raise UserError(
                f"--dataset {config.dataset}: its images are not each of one class of several,"
                " which this model needs. Take mnist, fashion, cifar10, or a folder with a"
                " subfolder a class."
            )
        shared = {
            "num_classes": self.num_classes,
            "num_channels": num_channels(config),
            "layout": LAYOUTS[config.layout][config.image_size],
            "attention": config.attention,
        }
        whom = NORMALIZED[config.spectral_norm]
        G = BigGANGenerator(
            latent_dim=config.latent_dim,
            embedding_dim=config.embedding_dim,
            width=config.generator_hidden_dim,
            spectral_norm="G" in whom,
            **shared,
        )
        D = ProjectionDiscriminator(
            image_size=config.image_size,
            width=config.discriminator_hidden_dim,
            spectral_norm="D" in whom,
            **shared,
        )
        super().__init__(config, device, G=G, D=D)
        self.step_images = config.d_steps * config.accumulate * config.batch_size
        self.truncated: dict[float, tuple[int, nn.Module]] = {}  # the step, and a G for such z

    @cached_property
    def training_data(self) -> ImageData:
        """UserError where a class has no image left, which G would be asked for all the same."""
        data = super().load_data("train")
        counts = data.labels.bincount(minlength=self.num_classes).tolist()
        empty = [name for name, n in zip(data.class_names, counts, strict=True) if not n]
        if empty:
            raise UserError(
                f"no training image of class {', '.join(empty[:5])}{', ...' if empty[5:] else ''}"
                " can be used: all are too small or unreadable. Add some, take the class's folder"
                " out, or choose another --small_images."
            )
        return data

    def load_data(self, split: str) -> ImageData:
        return self.training_data if split == "train" else super().load_data(split)

    def train_step(self, batch: Batch) -> Scalars:
        """--d_steps updates of D, each on images of its own, then one of G.

        A step of every power iteration goes before each update of its network. G learns from the
        fakes that D has just seen, unless --fresh_noise or --accumulate has it make its own.
        """
        set_rates(self.optimizers, self.learning_rates, self.config, self.step)
        self.G.advance()
        parts = zip(*(t.chunk(self.config.d_steps) for t in batch), strict=True)
        for k, (x, y) in enumerate(parts):
            fakes, scalars = self.update_conditioned(x, y, self.step * self.config.d_steps + k)
        return scalars | self.update_towards(fakes)

    @property
    def keeps_fakes(self) -> bool:
        """True if D's last fakes keep their graph, for G: at most one batch does at a time."""
        return self.config.accumulate == 1 and not self.config.fresh_noise

    def update_conditioned(
        self, images: Tensor, classes: Tensor, index: int
    ) -> tuple[list[Pair], Scalars]:
        """D ascends min(0, D(x, y) - 1) + min(0, -1 - D(G(z, y'), y')), or what --loss has.

        y' is drawn evenly from the classes. The mean of --accumulate batches' gradients is that of
        one batch of all their images. Returns the last batch's (G(z, y'), y').
        """
        k = self.config.accumulate
        self.D.advance()
        self.optimizers["D"].zero_grad()
        found = []
        noise, others = self.drawn(len(images), "noise", index)
        batches = zip(*(t.chunk(k) for t in (images, noise, classes, others)), strict=True)
        for j, (x, z, y, drawn) in enumerate(batches):
            with torch.set_grad_enabled(self.keeps_fakes):
                fake = self.fakes(z, drawn)
            x = self.augment(x, "real", index * k + j)
            seen = self.augment(fake.detach(), "fake", index * k + j)
            logits = self.logits(torch.cat((x, seen)), torch.cat((y, drawn)))
            real_logits, fake_logits = logits.split(len(x))
            loss = self.loss.real(real_logits) + self.loss.fake(fake_logits)
            (loss / k).backward()
            found.append(judgement(loss, real_logits, fake_logits))
        # one of the batches stands for all: the penalty is a mean over images too
        scalars = self.penalize(x, seen, index, y)
        self.optimizers["D"].step()
        return [(fake, drawn)], scalars | mean_of(found)

    def update_towards(self, fakes: list[Pair]) -> Scalars:
        """G ascends D(G(z, y), y), or what --loss has, as the D just updated judges it."""
        k = self.config.accumulate
        self.optimizers["G"].zero_grad()
        found = []
        with frozen(self.D):
            for j, (fake, y) in enumerate(fakes if self.keeps_fakes else self.new_fakes(k)):
                logits = self.logits(self.augment(fake, "for G", self.step * k + j), y)
                loss = self.loss.generator(logits)
                (loss / k).backward()
                probability = mean_probability(logits)
                found.append({"generator_loss": loss.detach(), "D(G(z2))": probability})
        scalars = mean_of(found)
        if weight := self.config.orthogonal_weight:
            layers = (m for m in self.G.modules() if isinstance(m, nn.Conv2d | nn.Linear))
            penalty = orthogonal_penalty(layers)  # of all but the class embedding
            (weight * penalty).backward()
            scalars["orthogonal_penalty"] = penalty.detach()
        self.optimizers["G"].step()
        return scalars

    def new_fakes(self, k: int) -> Iterator[Pair]:
        """k batches (G(z, y), y) that D has not seen, made one at a time."""
        drawn = self.drawn(k * self.config.batch_size // self.ranks, "fresh noise", self.step)
        for z, y in zip(*(t.chunk(k) for t in drawn), strict=True):
            yield self.fakes(z, y), y

    @property
    def z_shape(self) -> tuple[int, ...]:
        return (self.config.latent_dim,)

    def drawn(self, n: int, purpose: str, index: int) -> Pair:
        """z (n, latent_dim) and evenly drawn classes (n,) of a step."""
        draws = stream(self.device, f"{purpose}, classes", self.config.seed, index)
        y = torch.randint(self.num_classes, (n,), generator=draws, device=self.device)
        return self.noise(n, purpose, index), y

    def draw_z(self, n: int, seed: int, *, truncation: float = 0.0) -> Tensor:
        """z (n, latent_dim) on the CPU: N(0, I), or with a truncation given that |z_i| <= it."""
        return draw(n, self.config.latent_dim, generator("cpu", "z", seed), truncation)

    def embeddings(self) -> Tensor:
        """The class vectors (K, embedding_dim) of the G that is sampled, float32 on the CPU."""
        G = self.averages["G"].module if self.averages else self.G
        return G.shared.weight.detach().float().cpu().clone()

    def images_of(self, z: Tensor, r: Tensor, *, truncated: float | None = None) -> Tensor:
        """Make images (N, C, S, S) in [-1, 1] of z and of class vectors r (N, embedding_dim).

        truncated: where z is cut off (0: nowhere; None: at --truncation), for which BatchNorm gets
        statistics of its own.
        """
        G = self.sampled_generator(truncated)
        parts = zip(z.split(AT_ONCE), r.split(AT_ONCE), strict=True)
        with sampling(G):
            return torch.cat([G.of_vectors(a.to(self.device), b.to(self.device)) for a, b in parts])

    def sample(self, z: Tensor, y: Tensor, *, truncated: float | None = None) -> Tensor:
        return self.images_of(z, self.embeddings()[y], truncated=truncated)

    def sample_images(self) -> dict[str, Tensor]:
        """A class a column, a z a row, from 8 noise vectors that never change."""
        columns = min(self.num_classes, COLUMNS)
        z = self.fixed_noise(ROWS, "fixed noise").repeat_interleave(columns, 0)
        images = self.sample(z, torch.arange(columns).repeat(ROWS), truncated=0.0)
        return {"samples": make_grid(images, columns=columns)}

    def labels_of_generated(self, n: int, seed: int) -> Tensor:
        """The classes (n,) of the images that generate(n, seed) gives, in their order."""
        return balanced(n, self.num_classes, "generated classes", seed)

    def sampling_inputs(self, n: int, seed: int) -> Iterator[Inputs]:
        """Yield z, truncated as --truncation has it, and all classes alike."""
        y = self.labels_of_generated(n, seed)
        return self.pairs(y, generator("cpu", "generate", seed), self.config.truncation)

    def pairs(self, y: Tensor, draws: torch.Generator, truncation: float) -> Iterator[Pair]:
        for some in y.split(AT_ONCE):
            yield draw(len(some), self.config.latent_dim, draws, truncation), some

    def sampled_generator(self, truncation: float | None = None) -> BigGANGenerator:
        """G, or with --ema its average.

        For an average or a truncated z, BatchNorm's statistics are re-estimated from 2000 noises,
        truncated alike, and evenly drawn classes (Brock et al. 2018, sec. 3.1, app. D).
        """
        truncation = self.config.truncation if truncation is None else truncation
        if self.averages:
            return self.averages["G"].sampled(lambda: self.truncated_inputs(truncation), truncation)
        if not truncation:
            return self.G
        step, G = self.truncated.get(truncation, (None, None))
        if step != self.step:
            G = fresh_statistics(self.G, self.truncated_inputs(truncation))
            self.truncated[truncation] = self.step, G
        return G

    def truncated_inputs(self, truncation: float) -> Iterator[Inputs]:
        seed = self.config.seed
        y = balanced(STATISTICS, self.num_classes, "statistics classes", seed)
        return self.pairs(y, generator("cpu", "statistics", seed), truncation)

    def restore(self, state: dict[str, Any]) -> None:
        self.truncated.clear()
        super().restore(state)

    def sampling_mode(self) -> dict[str, Any]:
        mode = super().sampling_mode() | {"truncation": self.config.truncation}
        if self.config.truncation:
            mode["batchnorm"] = f"re-estimated on {STATISTICS} generated images"
        return mode

    def evaluate(self, extractor: nn.Module) -> list[Result]:
        """Compute the scores of images that have a class. docs/biggan.md."""
        return digit_scores(self) + inception_scores(self, extractor)


def mean_of(found: list[dict[str, Tensor]]) -> Scalars:
    """Each tag's mean over the batches of an update."""
    return {tag: torch.stack([values[tag] for values in found]).mean() for tag in found[0]}


def draw(n: int, size: int, stream: torch.Generator, truncation: float = 0.0) -> Tensor:
    """z (n, size) ~ N(0, I); with a truncation t > 0, N(0, I) given that each |z_i| <= t.

    That is what redrawing each value outside until it is inside would give: the truncation trick
    (Brock et al. 2018, sec. 3.1), fewer kinds of images for better ones.
    """
    device = stream.device
    if not truncation:
        return torch.randn(n, size, generator=stream, device=device)
    z = torch.empty(n, size, device=device)
    return nn.init.trunc_normal_(z, a=-truncation, b=truncation, generator=stream)


def balanced(n: int, num_classes: int, *key: str | int) -> Tensor:
    """Classes (n,), each as often as any other or once more, in the order of the key."""
    order = torch.randperm(n, generator=generator("cpu", *key))
    return (torch.arange(n) % num_classes)[order]
