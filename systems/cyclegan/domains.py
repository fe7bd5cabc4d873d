"""Two domains of images without pairs: A and B, each with an order of its own.

--dataset emoji: A is Apple's style, B Windows'. --dataset folder: --folder_a and --folder_b, or one
folder with trainA/, testA/, trainB/, testB/, as CycleGAN's own datasets come.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

import dataset
from dataset import Batch, Batches, ImageData
from lib.errors import UserError
from lib.seeding import key_seed
from sources import DataSpec
from sources import emoji as emoji_data
from sources import folder as folder_data
from systems.cyclegan.config import DIRECTIONS, CycleGANConfig
from systems.cyclegan.jitter import jittered

if TYPE_CHECKING:
    from systems.cyclegan.trainer import CycleGAN

DOMAINS = {"A": "b2a", "B": "a2b"}  # by name, with the direction that leads to it


def domain_spec(config: CycleGANConfig, domain: str) -> DataSpec:
    """Say where the domain's images are: those of the target of the direction that leads to it."""
    return DataSpec.of(replace(config, direction=DOMAINS[domain]))


def num_channels(config: CycleGANConfig) -> int:
    """1 if both domains are grey, else 3: of the images of both.

    Raises UserError if a domain's images can't be found.
    """
    source = dataset.DATASETS[config.dataset]()
    if config.dataset == "folder" and not config.folder_b:
        names = folder_data.opened(domain_spec(config, "A")).names
        if not folder_data.holds_two_domains(names):
            raise UserError(
                f"--folder_a {config.folder_a} has no subfolders trainA/ and trainB/: make them, or"
                " name the other domain's images by --folder_b PATH."
            )
    return max(source.channels(domain_spec(config, domain)) for domain in DOMAINS)


def load_domain(
    config: CycleGANConfig, domain: str, split: str, channels: int, device: torch.device
) -> ImageData:
    """A split of a domain with so many channels; a grey domain beside a coloured one becomes RGB.

    Raises NoTestSplit if a domain has no test images.
    """
    spec = domain_spec(config, domain)
    data = dataset.load_spec(config.dataset, split, spec, device)
    return replace(data, images=data.images.expand(-1, channels, -1, -1))


class Pair(NamedTuple):
    """A batch of each domain, of one length; the i-th of the one knows nothing of the other's."""

    a: Batch
    b: Batch


class UnpairedBatches:
    """batches(step) -> the step's Pair. Each domain has an order of its own.

    The smaller domain comes round more often.
    """

    def __init__(self, a: ImageData, b: ImageData, config: CycleGANConfig) -> None:
        self.batch_size, seed = config.batch_size, config.seed
        self.jittered = partial(jittered, scale=config.jitter, flip=config.flip, seed=seed)
        self.data = max(a, b, key=len)  # by which epochs are counted, as in the authors' code
        self.a, self.b = (
            Batches(data, batch_size=self.batch_size, seed=key_seed("domain", domain, seed))
            for data, domain in ((a, "A"), (b, "B"))
        )

    def fingerprint(self) -> str:
        return f"{self.a.fingerprint()} and {self.b.fingerprint()}"

    def __call__(self, step: int) -> Pair:
        a, b = self.a(step), self.b(step)
        x_a, x_b = self.jittered(a.x, "A", step), self.jittered(b.x, "B", step)
        return Pair(a._replace(x=x_a), b._replace(x=x_b))


class Counterparts(NamedTuple):
    """source (n, C, S, S) and its true translations target, uint8; how many of the latter D saw."""

    source: Tensor
    target: Tensor
    seen: int


def counterparts(trainer: "CycleGAN", direction: str) -> Counterparts:
    """Find the source's test emoji that the target's style has too, by their code points.

    The target's picture is looked for in its test and its training images: the course's test sets
    were drawn apart, and have 4 of 100 code points in common. Training has seen those of `seen`,
    but unpaired, and never the source.
    """
    source, target = DIRECTIONS[direction]
    places, pictures = {}, {}  # code points -> split and index; split -> images
    for split in ("train", "test"):
        names = emoji_data.code_points(domain_spec(trainer.config, target), split)
        places |= {name: (split, i) for i, name in enumerate(names)}
        pictures[split] = trainer.load_domain(target, split).images
    names = emoji_data.code_points(domain_spec(trainer.config, source), "test")
    found = [(i, *places[name]) for i, name in enumerate(names) if name in places]
    images = trainer.load_domain(source, "test").images
    return Counterparts(
        images[[i for i, _, _ in found]],
        torch.stack([pictures[split][k] for _, split, k in found]) if found else images[:0],
        sum(split == "train" for _, split, _ in found),
    )
