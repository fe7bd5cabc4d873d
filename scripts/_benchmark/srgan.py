"""A step of super-resolution, preset course: ours against the loop that its text leads to."""

import argparse
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from dataset import load_spec, to_signed
from lib.flags import parse
from lib.seeding import global_stream
from main import pick_device
from scripts._benchmark.limits import count_flops, limit_of, timed_limits
from scripts._benchmark.timing import Contest, Rival
from scripts._benchmark.training import steps_a_second, training_steps
from sources.spec import DataSpec
from systems.srgan.networks import Discriminator, UNet
from systems.srgan.trainer import SRGANConfig

IMAGES = 256  # of noise: what they show does not change the time


def bench_srgan(args: argparse.Namespace, folder: Path) -> Contest:
    """Steps of the preset course: ours, once for every `--ours`, against the plain loop."""
    make_images(folder / "noise")
    takes, precisions = {}, {}
    for extra in args.ours or [""]:
        config, name = srgan_config(args, folder, extra), f"ours {extra}".strip()
        takes[name] = training_steps(config)
        precisions[name] = config.precision
    device = pick_device(config)
    steps = args.steps or steps_a_second(next(iter(takes.values())), device)
    plain = plain_loop(srgan_config(args, folder, ""), device)
    takes["plain loop"] = lambda n: [next(plain) for _ in range(n)]
    precisions["plain loop"] = "fp32"
    timed, left_out = timed_limits(set(precisions.values()), device)
    flops = steps * step_flops(srgan_config(args, folder, ""))
    rivals = [
        Rival(
            name,
            lambda take=take: take(steps),
            items=steps,
            flops=flops,
            limit=limit_of(precisions[name], timed),
        )
        for name, take in takes.items()
    ]
    pairs = [(name, "plain loop") for name in takes if name != "plain loop"]
    return Contest("step", rivals + timed, pairs, left_out)


def make_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def srgan_config(args: argparse.Namespace, folder: Path, extra: str) -> SRGANConfig:
    flags = ["--model", "srgan", "--dataset", "folder", "--folder", str(folder / "noise")]
    flags += ["--data_dir", str(folder), "--device", args.device]
    return parse([*flags, *shlex.split(extra)], {"srgan": SRGANConfig}, "")


class PlainG(nn.Module):
    """The course's generator, written out: torch's own layers, skips joined by hand."""

    def __init__(self) -> None:
        super().__init__()
        w = [3, 32, 64, 128, 256, 512]
        ins, outs = [512, 512, 256, 128, 64], [256, 128, 64, 32, 16]
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2))
            for a, b in pairwise(w)
        )
        self.ups = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2))
            for a, b in zip(ins, outs, strict=True)
        )
        self.last = nn.Conv2d(19, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for down in self.downs:
            features.append(down(features[-1]))
        y = features.pop()
        for up in self.ups:
            y = torch.cat([up(y), features.pop()], 1)
        return torch.tanh(self.last(y))


def plain_discriminator() -> nn.Module:
    layers: list[nn.Module] = []
    w = [3, 32, 64, 128, 256, 512]
    for a, b in pairwise(w):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 3, 2, 1), nn.Flatten(0), nn.Sigmoid())


def plain_loop(config: SRGANConfig, device: torch.device) -> Iterator[None]:
    """A step each time: D on true and made images, then G through D, whose gradients gather too.

    Its images are decoded already, as ours are.
    """
    images = load_spec("folder", "train", DataSpec.of(config), "cpu").images
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(to_signed(images)),
        config.batch_size,
        shuffle=True,
        drop_last=True,
    )
    with global_stream("plain loop"):
        G, D = PlainG().to(device), plain_discriminator().to(device)
    betas = (config.beta1, config.beta2)
    adam_G, adam_D = (
        torch.optim.Adam(net.parameters(), config.learning_rate, betas) for net in (G, D)
    )
    bce = nn.BCELoss()
    while True:
        for (x,) in loader:
            x = x.to(device)
            low = F.interpolate(x, (16, 16), mode="bilinear", antialias=True)
            low = F.interpolate(low, (64, 64), mode="bilinear")
            ones, zeros = torch.ones(len(x), device=device), torch.zeros(len(x), device=device)
            fake = G(low)
            adam_D.zero_grad()
            d_loss = bce(D(x), ones) + bce(D(fake.detach()), zeros)
            d_loss.backward()
            adam_D.step()
            adam_G.zero_grad()
            reconstruction = ((x - fake) / 2).square().sum() / len(x)
            g_loss = bce(D(fake), ones) + reconstruction
            g_loss.backward()
            adam_G.step()
            [loss.item() for loss in (d_loss, g_loss, reconstruction)]
            yield


def step_flops(config: SRGANConfig) -> int:
    """All that our step needs."""
    with torch.device("meta"):
        G, D = UNet(), Discriminator()
        x = torch.empty(config.batch_size, 3, config.image_size, config.image_size)
        low = torch.empty(config.batch_size, 3, config.image_size // 4, config.image_size // 4)
    return count_flops(lambda: needed_step(G, D, x, low))


def needed_step(G: UNet, D: Discriminator, x: torch.Tensor, low: torch.Tensor) -> None:
    """G once; D on true and on made images; G through a D that gathers no gradients."""
    fake = G(low)
    D.logits(x).sum().backward()
    D.logits(fake.detach()).sum().backward()
    D.requires_grad_(False)
    D.logits(fake).sum().backward()
    D.requires_grad_(True)
