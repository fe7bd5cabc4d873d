"""Two domains of images without pairs: A and B, each with an order of its own.

--dataset emoji: A is Apple's style, B Windows'. --dataset folder: --folder_a and --folder_b, or one
folder with trainA/, testA/, trainB/, testB/, as CycleGAN's own datasets come.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import dataset
from dataset import Batch, Batches, ImageData
from lib.errors import UserError
from lib.seeding import key_seed
from sources import emoji as emoji_data
from sources import folder as folder_data
from sources.spec import DataSpec, NoTestSplit
from systems.cyclegan.config import DIRECTIONS, EMOJI_STYLE, UnpairedConfig
from systems.cyclegan.jitter import Jitter

DOMAINS = ("A", "B")


def domain_spec(config: UnpairedConfig, domain: str) -> DataSpec:
    """Where the domain's images are: "A" or "B"."""
    folder = {"A": config.folder_a, "B": config.folder_b or config.folder_a}[domain]
    return DataSpec(
        Path(config.data_dir),
        config.image_size,
        folder=folder,
        small_images=config.small_images,
        emoji_style=EMOJI_STYLE[domain],
        domain=domain if config.dataset == "folder" else "",
    )


def num_channels(config: UnpairedConfig) -> int:
    """1 if both domains are grey, else 3: of the images of both.

    UserError where a domain's images can't be found.
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
    config: UnpairedConfig, domain: str, split: str, channels: int, device: torch.device
) -> ImageData:
    """A split of a domain with so many channels; a grey domain beside a coloured one becomes RGB.

    Raises NoTestSplit where a domain has no test images.
    """
    spec = domain_spec(config, domain)
    data = dataset.load_spec(config.dataset, split, spec, device)
    if data.images.shape[1] == channels:
        return data
    return replace(data, images=data.images.expand(-1, channels, -1, -1))


def held_out_images(
    config: UnpairedConfig, domain: str, channels: int, device: torch.device
) -> tuple[ImageData, str]:
    """The domain's test images, or, where it has none, its training images; and which they are."""
    for split in ("test", "train"):
        try:
            return load_domain(config, domain, split, channels, device), split
        except NoTestSplit:
            continue
    raise AssertionError("every dataset has a training split")


class Pair(NamedTuple):
    """A batch of each domain, of one length; the i-th of the one knows nothing of the other's."""

    a: Batch
    b: Batch


class UnpairedBatches:
    """batches(step) -> the step's Pair. Each domain has an order of its own, even where both are of

    one length: the smaller domain comes round more often.
    """

    def __init__(
        self,
        a: ImageData,
        b: ImageData,
        *,
        batch_size: int,
        seed: int,
        jitter: float = 1.0,
        flip: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.jitter = Jitter(jitter, flip, seed)
        self.data = max(a, b, key=len)  # by which epochs are counted, as in the authors' code
        self.a, self.b = (
            Batches(data, batch_size=batch_size, seed=key_seed("domain", domain, seed))
            for data, domain in ((a, "A"), (b, "B"))
        )

    def fingerprint(self) -> str:
        return f"{self.a.fingerprint()} and {self.b.fingerprint()}"

    def __call__(self, step: int) -> Pair:
        a, b = self.a(step), self.b(step)
        return Pair(
            a._replace(x=self.jitter(a.x, "A", step)), b._replace(x=self.jitter(b.x, "B", step))
        )


class Counterparts(NamedTuple):
    """source (n, C, S, S) and its true translations target, uint8; how many of the latter D saw."""

    source: Tensor
    target: Tensor
    seen: int


def counterparts(
    config: UnpairedConfig, direction: str, channels: int, device: torch.device
) -> Counterparts:
    """The source's test emoji that the target's style has too, by their code points.

    The target's picture is looked for in its test and its training images: the course's test sets
    were drawn apart, and have 4 of 100 code points in common. Training has seen those of `seen`,
    but unpaired, and never the source.
    """
    source, target = DIRECTIONS[direction]
    places = {}  # code points -> split and index
    for split in ("train", "test"):
        names = emoji_data.code_points(domain_spec(config, target), split)
        places |= {name: (split, i) for i, name in enumerate(names)}
    names = emoji_data.code_points(domain_spec(config, source), "test")
    found = [(i, *places[name]) for i, name in enumerate(names) if name in places]
    splits = {
        split: load_domain(config, target, split, channels, device).images
        for split in ("train", "test")
    }
    images = load_domain(config, source, "test", channels, device).images
    return Counterparts(
        images[[i for i, _, _ in found]],
        torch.stack([splits[split][k] for _, split, k in found]) if found else images[:0],
        sum(split == "train" for _, split, _ in found),
    )
