"""CycleGAN (Zhu et al. 2017): translation between two domains without pairs. docs/cyclegan.md.

Apple's and Windows' emoji at 32x32 are the main job; any two folders of images do as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torchvision.utils import make_grid

from config import setting
from dataset import ImageData, order, to_bytes, to_signed
from decay import check_decay, set_rates
from distributed import of_all_ranks, shard
from errors import UserError
from losses import LSGAN
from modes import frozen, in_training_form, sampling
from seeding import global_stream, key_seed
from sources.user_files import check_request
from trainer import Trainer
from translation.files import translate_folder
from translation.image_pool import ImagePool
from translation.networks import DISCRIMINATORS, GENERATORS, NORMS, STEMS, UPSAMPLINGS
from translation.scores import domain_scores, paired_scores, reconstruction_scores
from translation.unpaired import (
    DIRECTIONS,
    DOMAINS,
    UnpairedBatches,
    UnpairedConfig,
    held_out_images,
    load_domain,
    num_channels,
)

PRESETS: dict[str, dict[str, Any]] = {
    # CSC413 2020, assignment 4, part 2 (spec row 9): least squares, both D's before both G's, the
    # L1 cycle, 5000 iterations, upsampling and convolution, a block of one convolution. Its layer
    # tables are figures that the text lacks, and it leaves open the widths, the number of blocks,
    # the norm, the batch, Adam's settings and lambda_cycle. Widths, block, batch and Adam's
    # settings are here those of the notebook it goes with; kernels (its 5x5 are 4x4 on the way
    # down and 3x3 elsewhere) and lambda_cycle are ours: its 0.015 goes with the sum over an image's
    # values, ours with their mean, and 10 of the paper's is 0.0033 by its count.
    "emoji": {
        "dataset": "emoji",
        "image_size": 32,
        "arch": "plain",
        "stem": 0,
        "generator_hidden_dim": 32,  # 32, 64
        "discriminator_hidden_dim": 32,  # 32, 64, 128
        "residual_blocks": 1,
        "block_convs": 1,
        "norm": "batch",
        "upsample": "resize",
        "judge": "image",
        "pool_size": 0,
        "lambda_cycle": 10.0,
        "lambda_identity": 0.0,
        "batch_size": 32,
        "learning_rate": 3e-4,
        "beta1": 0.3,
        "num_training_steps": 5000,
        "saving_steps": 200,
        "fid_protocol": "all",
    },
    # Zhu et al. 2017, sec. 4 and app. 7: at 128 pixels add --image_size 128, which takes 6 blocks.
    # 200 epochs, the rate falling over the last 100, of horse2zebra's 1,334 zebras.
    "paper": {
        "dataset": "folder",
        "image_size": 256,
        "jitter": 286 / 256,
        "flip": True,
        "arch": "plain",
        "stem": 7,
        "generator_hidden_dim": 64,
        "discriminator_hidden_dim": 64,
        "residual_blocks": 0,  # 9, or 6 below 256 pixels
        "block_convs": 2,
        "norm": "instance",
        "upsample": "transposed",
        "judge": "patch",
        "pool_size": 50,
        "lambda_cycle": 10.0,
        "lambda_identity": 0.5,
        "batch_size": 1,
        "learning_rate": 2e-4,
        "beta1": 0.5,
        "num_training_steps": 266_800,
        "decay_from": 133_400,
        "decay_to": 266_800,
        "saving_steps": 6670,  # 5 epochs
        "fid_protocol": "all",
    },
}


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(UnpairedConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    batch_size: int = setting(
        32, "images of each domain a step", group="training", tag="b{}", at_least=1
    )
    image_size: int = setting(
        32, "side of an image in pixels", group="data", tag="{}px", choices=(32, 64, 128, 256)
    )
    arch: str = setting(
        "blend",
        "G: an encoder-decoder alone, or one with skips that draws a mask too, by which its image"
        " covers the source",
        group="networks",
        choices=tuple(GENERATORS),
    )
    stem: int = setting(
        0,
        "of --arch plain: kernel of G's first and last convolution at the image's own size; 0:"
        " there are none",
        group="networks",
        choices=STEMS,
    )
    generator_hidden_dim: int = setting(
        32, "channels of G's largest feature map", group="networks", tag="g{}", at_least=1
    )
    discriminator_hidden_dim: int = setting(
        32, "channels of D's largest feature map", group="networks", tag="d{}", at_least=1
    )
    residual_blocks: int = setting(
        1, "of G; 0: 9 from 256 pixels on, else 6", group="networks", at_least=0
    )
    block_convs: int = setting(
        1, "convolutions in a residual block", group="networks", choices=(1, 2)
    )
    norm: str = setting("batch", "in G and D", group="networks", choices=tuple(NORMS))
    upsample: str = setting(
        "resize",
        "how G's maps grow: nearest upsampling and a convolution, or transposed convolutions",
        group="networks",
        choices=tuple(UPSAMPLINGS),
    )
    judge: str = setting(
        "image",
        "what D gives a value to: a whole image, or each patch of 70x70",
        group="networks",
        choices=tuple(DISCRIMINATORS),
    )
    lambda_cycle: float = setting(
        10.0, "weight of the L1 cycle loss; 0 leaves it out", group="game", at_least=0
    )
    lambda_identity: float = setting(
        1.0,
        "weight of the identity loss as a share of --lambda_cycle; 0 leaves it out",
        group="game",
        at_least=0,
    )
    pool_size: int = setting(
        0,
        "earlier fakes of each domain that its D learns from besides the newest; 0: none",
        group="game",
        at_least=0,
    )
    learning_rate: float = setting(3e-4, "of Adam, all networks", group="training", above=0)
    beta1: float = setting(
        0.3, "of Adam: memory of the gradient", group="training", at_least=0, below=1
    )
    beta2: float = setting(
        0.999, "of Adam: memory of its square", group="training", at_least=0, below=1
    )
    decay_from: int = setting(
        0, "step from which the learning rates fall to 0, linearly", group="training", at_least=0
    )
    decay_to: int = setting(
        0, "step at which they are 0; 0: they stay constant", group="training", at_least=0
    )
    translate: str = setting(
        "",
        "a folder of images to translate with the trained run, at its image size",
        group="what to do",
        role="once",
    )
    out: str = setting("", "of --translate: where they go", group="what to do", role="once")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(self)
        check_request("--translate", self.translate, self.out)
        if self.stem and self.arch != "plain":
            raise UserError(
                f"--stem {self.stem} is of --arch plain, and this is {self.arch}: leave one out."
            )

    @property
    def request(self) -> str:
        return "--translate" if self.translate else ""


class CycleGAN(Trainer):
    """G_a2b: A -> B and G_b2a: B -> A, each judged by the D of the domain that it leads to."""

    config_class = CycleGANConfig
    config: CycleGANConfig
    bar_tags = ("discriminator_loss", "generator_loss")

    def __init__(self, config: CycleGANConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.channels = num_channels(config)
        with global_stream("weights", config.seed):  # drawn on the CPU: alike on every device
            networks = {name: self.new_generator() for name in ("G_a2b", "G_b2a")}
            networks |= {name: self.new_discriminator() for name in ("D_a", "D_b")}
        self.networks = {
            name: network.to(device, memory_format=torch.channels_last)
            for name, network in networks.items()
        }
        self.play = {  # forward passes of the step
            name: in_training_form(getattr(net, "logits", net), config, device)
            for name, net in self.networks.items()
        }
        self.optimizers = {"G": self.adam("G_a2b", "G_b2a"), "D": self.adam("D_a", "D_b")}
        shape = (self.channels, config.image_size, config.image_size)
        for name in ("a", "b") if config.pool_size else ():
            pool = ImagePool(config.pool_size, shape, key=(name, config.seed))
            self.networks[f"pool_{name}"] = pool.to(device)

    def new_generator(self) -> nn.Module:
        config = self.config
        return GENERATORS[config.arch](
            num_channels=self.channels,
            width=config.generator_hidden_dim,
            stem=config.stem,
            blocks=config.residual_blocks or (9 if config.image_size >= 256 else 6),
            block_convs=config.block_convs,
            norm=config.norm,
            upsample=config.upsample,
        )

    def new_discriminator(self) -> nn.Module:
        config = self.config
        make = DISCRIMINATORS[config.judge]
        return make(self.channels, config.discriminator_hidden_dim, config.image_size, config.norm)

    def adam(self, *names: str) -> Adam:
        weights = [p for name in names for p in self.networks[name].parameters()]
        betas = (self.config.beta1, self.config.beta2)
        return Adam(weights, lr=self.config.learning_rate, betas=betas, fused=True)

    def batches(self) -> UnpairedBatches:
        """batches(step) -> Pair, of the training images of both domains.

        UserError too where the samples' images are not to be had: now, not in the middle of a run.
        """
        config = self.config
        for domain in DOMAINS:
            held_out_images(config, domain, self.channels, self.device)
        a, b = (self.load_domain(domain, "train") for domain in DOMAINS)
        return UnpairedBatches(
            a,
            b,
            batch_size=config.batch_size,
            seed=config.seed,
            jitter=config.jitter,
            flip=config.flip,
        )

    def load_domain(self, domain: str, split: str) -> ImageData:
        return load_domain(self.config, domain, split, self.channels, self.device)

    def load_data(self, split: str) -> ImageData:
        """A split of the domain that --direction leads to: what its translations are to be like."""
        return self.load_domain(DIRECTIONS[self.config.direction][1], split)

    # A step

    def train_step(self, batch) -> dict[str, Tensor]:
        """The course's algorithm 2: both D's, then both G's, on one and the same translations."""
        self.set_learning_rate()
        a, b = batch.a.x, batch.b.x
        fake_b, fake_a = self.play["G_a2b"](a), self.play["G_b2a"](b)
        scalars = self.update_discriminators(a, b, fake_a, fake_b)
        scalars |= self.update_generators(a, b, fake_a, fake_b)
        for kind in ("discriminator", "generator", "cycle"):
            parts = [value for tag, value in scalars.items() if tag.startswith(f"{kind}_loss/")]
            if parts:
                scalars[f"{kind}_loss"] = sum(parts)
        return scalars

    def update_discriminators(
        self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor
    ) -> dict[str, Tensor]:
        """Each D descends (D(x) - 1)^2 / 2 + D(fake)^2 / 2; fakes come through the pool, if any."""
        self.optimizers["D"].zero_grad()
        scalars = {}
        for name, x, fake in (("a", a, fake_a), ("b", b, fake_b)):
            D = self.play[f"D_{name}"]
            real_values = D(x)
            real_loss = LSGAN.real(real_values)
            real_loss.backward()
            fake_values = D(self.through_pool(name, fake))
            fake_loss = LSGAN.fake(fake_values)
            fake_loss.backward()
            scalars |= {
                f"discriminator_loss/{name}": (real_loss + fake_loss).detach(),
                f"D_{name}(real)": real_values.detach().mean(),
                f"D_{name}(fake1)": fake_values.detach().mean(),
            }
        self.optimizers["D"].step()
        return scalars

    def through_pool(self, name: str, fake: Tensor) -> Tensor:
        """What D_name is shown in place of the fakes just made; without gradient."""
        fake = fake.detach()
        if not self.config.pool_size:
            return fake
        pool = self.networks[f"pool_{name}"]
        return shard(pool.swap(of_all_ranks(fake), self.step))

    def update_generators(
        self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor
    ) -> dict[str, Tensor]:
        """Both G's descend (D(fake) - 1)^2 + lambda |x - back(fake)|_1 (+ the identity loss).

        The D's, just updated, pass gradients on and gather none.
        """
        self.optimizers["G"].zero_grad()
        scalars, losses = {}, []
        with frozen(self.networks["D_a"]), frozen(self.networks["D_b"]):
            for way, name, fake in (("a2b", "b", fake_b), ("b2a", "a", fake_a)):
                values = self.play[f"D_{name}"](fake)
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
        to_b, to_a = self.play["G_a2b"], self.play["G_b2a"]
        if cycle:
            yield "cycle_loss/a", cycle, (to_a(fake_b) - a).abs().mean()
            yield "cycle_loss/b", cycle, (to_b(fake_a) - b).abs().mean()
        if identity:
            yield "identity_loss/a", identity, (to_a(a) - a).abs().mean()
            yield "identity_loss/b", identity, (to_b(b) - b).abs().mean()

    def set_learning_rate(self) -> None:
        """Before a step's updates: as --decay_from and --decay_to have it."""
        rates = dict.fromkeys(self.optimizers, self.config.learning_rate)
        set_rates(self.optimizers, rates, self.config, self.step)

    # Samples and scores

    @torch.no_grad()
    def translated(self, images: Tensor, direction: str) -> Tensor:
        """images (N, C, S, S) in [-1, 1] of the source -> the target's, by G in eval mode."""
        G = self.networks[f"G_{direction}"]
        with sampling(G):
            return G(images.to(self.device))

    def sample_images(self) -> dict[str, Tensor]:
        """Test images that never change: source, translation, reconstruction; A's left, B's right.

        16 of each domain in 8 rows; 4 where images are larger than 64 pixels.
        """
        n, rows = (16, 8) if self.config.image_size <= 64 else (4, 4)
        sides = []
        for direction, (source, _) in DIRECTIONS.items():
            back = "b2a" if direction == "a2b" else "a2b"
            data, _ = held_out_images(self.config, source, self.channels, self.device)
            chosen = order(len(data), key_seed("samples", source), 0)[:n]
            x = to_signed(data.images[chosen.to(data.images.device)]).to(self.device)
            y = self.translated(x, direction)
            triples = torch.stack([x, y, self.translated(y, back)], 1).flatten(0, 1)
            per_row = 3 * max(1, len(x) // rows)
            sides.append(make_grid(triples, nrow=per_row, padding=2, pad_value=-1.0))
        height = min(side.shape[1] for side in sides)
        gap = torch.ones(sides[0].shape[0], height, 8, device=self.device)
        return {"samples": torch.cat([sides[0][:, :height], gap, sides[1][:, :height]], 2)}

    def generate(self, n: int, seed: int, batch_size: int = 100) -> Iterator[Tensor]:
        """n translations of the source's training images, which come round in the seed's order."""
        source, _ = DIRECTIONS[self.config.direction]
        images = self.load_domain(source, "train").images
        chosen = order(len(images), key_seed("generate", seed), 0).repeat(n // len(images) + 1)[:n]
        yield from self.translations(images, self.config.direction, chosen, batch_size)

    def translations(
        self, images: Tensor, direction: str, chosen: Tensor, batch_size: int = 100
    ) -> Iterator[Tensor]:
        """Batches of uint8 translations of the chosen images, uint8."""
        for indices in chosen.to(images.device).split(batch_size):
            yield to_bytes(self.translated(to_signed(images[indices]), direction))

    def sampling_mode(self) -> dict[str, str | bool]:
        norm = "running statistics" if self.config.norm == "batch" else "none"
        return {"ema": False, "batchnorm": norm, "direction": self.config.direction}

    def evaluate(self, extractor: nn.Module) -> list[dict[str, Any]]:
        """Both directions beside the untranslated source. docs/cyclegan.md."""
        scores = domain_scores(self, extractor)
        scores += reconstruction_scores(self)
        if self.config.dataset == "emoji":
            scores += paired_scores(self)
        return scores

    def serve(self) -> None:
        translate_folder(self)
