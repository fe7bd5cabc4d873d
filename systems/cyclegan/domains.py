"""Two domains of images without pairs: A and B, each with an order of its own.

--dataset emoji: A is Apple's style, B Windows'. --dataset folder: --folder_a and --folder_b, or one
folder with trainA/, testA/, trainB/, testB/, as CycleGAN's own datasets come.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import dataset
from dataset import Batch, Batches, ImageData
from lib.errors import UserError
from lib.seeding import key_seed, stream
from metrics.protocols import most_of
from sources import DataSpec
from sources import emoji as emoji_data
from sources import folder as folder_data
from systems.cyclegan.config import DIRECTIONS, CycleGANConfig

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


def jittered(x: Tensor, domain: str, step: int, *, scale: float, flip: bool, seed: int) -> Tensor:
    """x (N, C, S, S) in [-1, 1] -> the same shape; a function of these arguments alone.

    Random enlargement, cut and mirroring, as in the authors' code of CycleGAN (Zhu et al. 2017,
    app. 7.1: 256x256 pixels out of 286x286). scale: to which multiple of their side images are
    enlarged before a square of the old side is cut out of each; 1 leaves them.
    """
    side, n = x.shape[-1], len(x)
    draws = stream("cpu", "jitter", domain, seed, step)
    room = round(scale * side) - side
    corners = torch.randint(room + 1, (n, 2), generator=draws).to(x.device)
    mirrored = (torch.rand(n, generator=draws) < 0.5).to(x.device)
    if room:
        x = cut(enlarged(x, side + room), corners, side)
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x) if flip else x


def enlarged(x: Tensor, side: int) -> Tensor:
    """Bicubic, as theirs, which may go beyond the range of the values: it is clipped."""
    return F.interpolate(x, side, mode="bicubic", align_corners=False).clamp_(-1, 1)


def cut(x: Tensor, corners: Tensor, side: int) -> Tensor:
    """Squares (N, C, side, side) whose upper left pixels are corners (N, 2): row and column."""
    places = torch.arange(side, device=x.device)
    rows = (corners[:, 0, None] + places)[:, :, None]  # (N, side, 1)
    columns = (corners[:, 1, None] + places)[:, None, :]
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x.movedim(1, 3)[image, rows, columns].movedim(3, 1)


class Counterparts(NamedTuple):
    """source (n, C, S, S) and its true translations target, uint8; how many of the latter D saw."""

    source: Tensor
    target: Tensor
    seen: int


def counterparts(trainer, direction: str) -> Counterparts:
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
    found = found[: most_of(trainer.config, len(found))]
    images = trainer.load_domain(source, "test").images
    return Counterparts(
        images[[i for i, _, _ in found]],
        torch.stack([pictures[split][k] for _, split, k in found]) if found else images[:0],
        sum(split == "train" for _, split, _ in found),
    )
