"""CycleGAN (Zhu et al. 2017): translation between two domains without pairs. docs/cyclegan.md."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dataset import ImageData, load_spec, order, to_signed
from lib.results import Result
from lib.runlog import make_grid
from lib.seeding import key_seed
from metrics.lpips import lpips_if_any
from sources import NoTestSplit
from systems.cyclegan.config import DIRECTIONS, CycleGANConfig
from systems.cyclegan.domains import DOMAINS, UnpairedBatches, domain_spec, num_channels
from systems.cyclegan.networks import DISCRIMINATORS, GENERATORS, ImagePool
from systems.cyclegan.scores import domain_scores, paired_scores, reconstruction_scores
from trainer import AT_ONCE, STATISTICS, Scalars, Trainer
from training.augment import Augment
from training.config import adam, set_rates
from training.ema import Average, Inputs
from training.layers import placed
from training.losses import LSGAN
from training.modes import frozen, sampling
from training.precision import compiled


class CycleGAN(Trainer):
    """G_a2b: A -> B and G_b2a: B -> A, each judged by the D of the domain that it leads to."""

    config: CycleGANConfig
    bar_tags = ("discriminator_loss", "generator_loss")

    def __init__(self, config: CycleGANConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.channels = num_channels(config)
        networks = {name: self.new_generator() for name in ("G_a2b", "G_b2a")}
        sizes = self.channels, config.discriminator_hidden_dim, config.image_size, config.norm
        networks |= {name: DISCRIMINATORS[config.judge](*sizes) for name in ("D_a", "D_b")}
        self.networks = {name: placed(network, device) for name, network in networks.items()}
        self.augment = Augment(config.augment, config.seed)
        self.optimizers = {}
        self.step_networks = {
            name: compiled(getattr(net, "logits", net), config, device)
            for name, net in self.networks.items()
        }
        for player in "GD":
            weights = [p for n in networks if n[0] == player for p in networks[n].parameters()]
            self.optimizers[player] = adam(weights, config.learning_rate, config)
        for name in ("G_a2b", "G_b2a") if config.ema else ():
            average = Average(self.networks[name], config.ema)
            self.averages[name] = self.networks[f"{name}_average"] = average
        shape = (self.channels, config.image_size, config.image_size)
        for name in ("a", "b") if config.pool_size else ():
            pool = ImagePool(config.pool_size, shape, key=(name, config.seed))
            self.networks[f"pool_{name}"] = pool.to(device)

    def new_generator(self) -> nn.Module:
        config = self.config
        return GENERATORS[config.arch](
            num_channels=self.channels,
            width=config.generator_hidden_dim,
            blocks=config.residual_blocks or (9 if config.image_size >= 256 else 6),
            block_convs=config.block_convs,
            norm=config.norm,
            upsample=config.upsample,
            **({"stem": config.stem} if config.stem else {}),
        )

    def batches(self) -> UnpairedBatches:
        """batches(step) -> Pair, of the training images of both domains.

        Raises UserError, too, if the samples' images can't be had: now, not in the middle of a run.
        """
        for domain in DOMAINS:
            self.held_out(domain)
        a, b = (self.load_domain(domain, "train") for domain in DOMAINS)
        return UnpairedBatches(a, b, self.config)

    def held_out(self, domain: str) -> tuple[ImageData, str]:
        """Return the domain's test images, or if there are none its training images; and which."""
        try:
            return self.load_domain(domain, "test"), "test"
        except NoTestSplit:
            return self.load_domain(domain, "train"), "training"

    def load_domain(self, domain: str, split: str) -> ImageData:
        """Load a split of a domain; a grey one beside a coloured one becomes RGB.

        Raises NoTestSplit if a domain has no test images.
        """
        spec = domain_spec(self.config, domain)
        data = load_spec(self.config.dataset, split, spec, self.device)
        return replace(data, images=data.images.expand(-1, self.channels, -1, -1))

    def load_data(self, split: str) -> ImageData:
        """A split of the domain that --direction leads to: what its translations are to be like."""
        return self.load_domain(DIRECTIONS[self.config.direction][1], split)

    def train_step(self, batch) -> Scalars:
        """The course's algorithm 2: both D's, then both G's, on one and the same translations."""
        rates = dict.fromkeys(self.optimizers, self.config.learning_rate)
        set_rates(self.optimizers, rates, self.config, self.step)
        a, b = batch.a.x, batch.b.x
        fake_b, fake_a = self.run("G_a2b", a), self.run("G_b2a", b)
        scalars = self.update_discriminators(a, b, fake_a, fake_b)
        scalars |= self.update_generators(a, b, fake_a, fake_b)
        for kind in ("discriminator", "generator", "cycle"):
            parts = [value for tag, value in scalars.items() if tag.startswith(f"{kind}_loss/")]
            if parts:
                scalars[f"{kind}_loss"] = sum(parts)
        return scalars

    def update_discriminators(
        self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor
    ) -> Scalars:
        """Each D descends (D(x) - 1)^2 / 2 + D(fake)^2 / 2; fakes come through the pool, if any."""
        self.optimizers["D"].zero_grad()
        scalars = {}
        for name, x, fake in (("a", a, fake_a), ("b", b, fake_b)):
            real_values = self.judge(name, x, "real")
            real_loss = LSGAN.real(real_values)
            real_loss.backward()
            shown = fake.detach()
            if self.config.pool_size:
                shown = self.networks[f"pool_{name}"].swap(shown, self.step)
            fake_values = self.judge(name, shown, "fake")
            fake_loss = LSGAN.fake(fake_values)
            fake_loss.backward()
            scalars |= {
                f"discriminator_loss/{name}": (real_loss + fake_loss).detach(),
                f"D_{name}(real)": real_values.detach().mean(),
                f"D_{name}(fake1)": fake_values.detach().mean(),
            }
        self.optimizers["D"].step()
        return scalars

    def update_generators(self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor) -> Scalars:
        """Both G's descend (D(fake) - 1)^2 + lambda |x - back(fake)|_1 (+ the identity loss).

        The D's, just updated, pass gradients on and gather none.
        """
        self.optimizers["G"].zero_grad()
        scalars, losses = {}, []
        with frozen(self.networks["D_a"]), frozen(self.networks["D_b"]):
            for way, name, fake in (("a2b", "b", fake_b), ("b2a", "a", fake_a)):
                values = self.judge(name, fake, "for G")
                losses.append(LSGAN.generator(values))
                scalars[f"generator_loss/{way}"] = losses[-1].detach()
                scalars[f"D_{name}(fake2)"] = values.detach().mean()
            for tag, weight, loss in self.faithfulness(a, b, fake_a, fake_b):
                losses.append(weight * loss)
                scalars[tag] = loss.detach()
            sum(losses).backward()
        self.optimizers["G"].step()
        return scalars

    def faithfulness(
        self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor
    ) -> Iterator[tuple[str, float, Tensor]]:
        """(tag, weight, loss): mean L1 of the cycles, and of what G makes of its own target domain.

        Zhu et al. 2017, eq. 2 and sec. 5.2. What has no weight is not computed.
        """
        cycle = self.config.lambda_cycle
        identity = cycle * self.config.lambda_identity
        to_b, to_a = partial(self.run, "G_a2b"), partial(self.run, "G_b2a")
        if cycle:
            yield "cycle_loss/a", cycle, (to_a(fake_b) - a).abs().mean()
            yield "cycle_loss/b", cycle, (to_b(fake_a) - b).abs().mean()
        if identity:
            yield "identity_loss/a", identity, (to_a(a) - a).abs().mean()
            yield "identity_loss/b", identity, (to_b(b) - b).abs().mean()

    def judge(self, domain: str, images: Tensor, purpose: str) -> Tensor:
        """Run D_a or D_b on images as --augment lets it see them."""
        return self.run(f"D_{domain}", self.augment(images, f"{purpose} {domain}", self.step))

    def run(self, name: str, x: Tensor) -> Tensor:
        """Run a network as a step does, in --precision -> float32."""
        with self.autocast:
            return self.step_networks[name](x).float()

    def translated(self, images: Tensor, direction: str) -> Tensor:
        """images (N, C, S, S) in [-1, 1] of the source -> the target's, by the sampled G."""
        G = self.networks[name := f"G_{direction}"]
        if self.averages:
            source = DIRECTIONS[direction][0]
            inputs = partial(self.training_images, source, STATISTICS, "statistics")
            G = self.averages[name].sampled(inputs)
        with sampling(G):
            return G(images.to(self.device))

    def sample_images(self) -> dict[str, Tensor]:
        """Test images that never change: source, translation, reconstruction; A's left, B's right.

        16 of each domain in 8 rows; 4 where images are larger than 64 pixels.
        """
        n, rows = (16, 8) if self.config.image_size <= 64 else (4, 4)
        sides = []
        for source, back in DOMAINS.items():  # what leads to it leads back to it
            images = self.held_out(source)[0].images
            chosen = order(len(images), key_seed("samples", source), 0)[:n]
            x = to_signed(images[chosen.to(images.device)]).to(self.device)
            y = self.translated(x, "a2b" if source == "A" else "b2a")
            triples = torch.stack([x, y, self.translated(y, back)], 1).flatten(0, 1)
            sides.append(make_grid(triples, columns=3 * max(1, len(x) // rows)))
        height = min(side.shape[1] for side in sides)
        a, b = (side[:, :height] for side in sides)
        return {"samples": torch.cat([a, torch.ones_like(a[:, :, :8]), b], 2)}

    def sampling_inputs(self, n: int, seed: int) -> Iterator[Inputs]:
        """Yield the source's training images, which come round in the seed's order."""
        return self.training_images(DIRECTIONS[self.config.direction][0], n, "generate", seed)

    def training_images(self, domain: str, n: int, *key: str | int) -> Iterator[Inputs]:
        images = self.load_domain(domain, "train").images
        chosen = order(len(images), key_seed(*key), 0).repeat(n // len(images) + 1)[:n]
        for indices in chosen.to(images.device).split(AT_ONCE):
            yield (to_signed(images[indices]),)

    def sample(self, images: Tensor) -> Tensor:
        return self.translated(images, self.config.direction)

    def sampling_mode(self) -> dict[str, Any]:
        norm = "running statistics" if self.config.norm == "batch" else "none"
        if self.averages and self.config.norm == "batch":
            norm = f"re-estimated on {STATISTICS} training images"
        return {"ema": bool(self.averages), "batchnorm": norm, "direction": self.config.direction}

    def fetch(self) -> None:
        if self.config.dataset == "emoji":
            self.main_first(lambda: lpips_if_any(self.device))

    def evaluate(self, extractor: nn.Module) -> list[Result]:
        """Score both directions beside the untranslated source. docs/cyclegan.md."""
        scores = domain_scores(self, extractor) + reconstruction_scores(self)
        return scores + (paired_scores(self) if self.config.dataset == "emoji" else [])
