"""A CycleGAN step: ours against the loop that its course teaches, with the same networks."""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from dataset import to_signed
from GAN import Discriminator
from lib.flags import parse
from lib.seeding import global_stream
from main import pick_device
from scripts._benchmark.limits import count_flops, limit_of, timed_limits
from scripts._benchmark.timing import Contest, Rival
from scripts._benchmark.training import steps_a_second, training_steps
from systems.cyclegan.domains import load_domain
from systems.cyclegan.networks import TranslationGenerator
from systems.cyclegan.trainer import CycleGANConfig


def bench_cyclegan(args: argparse.Namespace, folder: Path) -> Contest:
    """Steps of the preset emoji: ours, once for every `--ours`, against the plain loop."""
    takes, precisions = {}, {}
    for extra in args.ours or [""]:
        config, name = cyclegan_config(args, extra), f"ours {extra}".strip()
        takes[name] = training_steps(config)
        precisions[name] = config.precision
    device = pick_device(config)
    steps = args.steps or steps_a_second(next(iter(takes.values())), device)
    plain = plain_loop(cyclegan_config(args, ""), device)
    takes["plain loop"] = lambda n: [next(plain) for _ in range(n)]
    precisions["plain loop"] = "fp32"
    timed, left_out = timed_limits(set(precisions.values()), device)
    flops = steps * step_flops(cyclegan_config(args, ""))
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


def cyclegan_config(args: argparse.Namespace, extra: str) -> CycleGANConfig:
    flags = ["--model", "cyclegan", "--preset", "emoji"]
    flags += ["--data_dir", args.data_dir, "--device", args.device]
    return parse([*flags, *shlex.split(extra)], {"cyclegan": CycleGANConfig}, "")


def plain_networks(config: CycleGANConfig) -> tuple[nn.Module, nn.Module]:
    """G and D of the preset emoji as tutorials write them: one Sequential each."""
    g, d = config.generator_hidden_dim, config.discriminator_hidden_dim

    def down(a: int, b: int, act: nn.Module) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), act]

    G = nn.Sequential(
        *down(3, g, nn.ReLU(True)),
        *down(g, 2 * g, nn.ReLU(True)),
        Residual(2 * g),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * g, g, 3, 1, 1, bias=False),
        nn.BatchNorm2d(g),
        nn.ReLU(True),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(g, 3, 3, 1, 1),
        nn.Tanh(),
    )
    D = nn.Sequential(
        nn.Conv2d(3, d, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, True),
        *down(d, 2 * d, nn.LeakyReLU(0.2, True)),
        *down(2 * d, 4 * d, nn.LeakyReLU(0.2, True)),
        nn.Conv2d(4 * d, 1, 4, bias=False),
        nn.Flatten(0),
    )
    for layer in (*G.modules(), *D.modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
    return G, D


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.layers = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def plain_loop(config: CycleGANConfig, device: torch.device) -> Iterator[None]:
    """A step each time, as the course's algorithm 2 reads.

    Translations are made anew for the G's, whose losses leave gradients in the D's too. Its images
    are decoded already, as ours are.
    """
    loaders = []
    for domain in ("A", "B"):
        images = load_domain(config, domain, "train", 3, torch.device("cpu")).images
        data = torch.utils.data.TensorDataset(to_signed(images))
        loaders.append(
            torch.utils.data.DataLoader(data, config.batch_size, shuffle=True, drop_last=True)
        )
    with global_stream("plain loop"):
        (G_ab, D_a), (G_ba, D_b) = (
            [net.to(device) for net in plain_networks(config)] for _ in "ab"
        )
    betas = (config.beta1, config.beta2)
    adam_G, adam_D = (
        torch.optim.Adam([*p.parameters(), *q.parameters()], config.learning_rate, betas)
        for p, q in ((G_ab, G_ba), (D_a, D_b))
    )
    while True:
        for (a,), (b,) in zip(*loaders, strict=False):
            a, b = a.to(device), b.to(device)
            adam_D.zero_grad()
            real = ((D_a(a) - 1) ** 2).mean() + ((D_b(b) - 1) ** 2).mean()
            real.backward()
            fake = (D_a(G_ba(b).detach()) ** 2).mean() + (D_b(G_ab(a).detach()) ** 2).mean()
            fake.backward()
            adam_D.step()
            adam_G.zero_grad()
            losses = [real, fake]
            for x, there, back, D in ((b, G_ba, G_ab, D_a), (a, G_ab, G_ba, D_b)):
                made = there(x)
                adversarial, cycle = ((D(made) - 1) ** 2).mean(), (back(made) - x).abs().mean()
                (adversarial + config.lambda_cycle * cycle).backward()
                losses += [adversarial, cycle]
            adam_G.step()
            [loss.item() for loss in losses]
            yield


def step_flops(config: CycleGANConfig) -> int:
    """All that our step needs, in both directions."""
    with torch.device("meta"):
        G = TranslationGenerator(width=config.generator_hidden_dim)
        D = Discriminator(num_channels=3, hidden_dim=config.discriminator_hidden_dim)
        x = torch.empty(config.batch_size, 3, config.image_size, config.image_size)
    return 2 * count_flops(lambda: needed_step(G, D, x))


def needed_step(G: nn.Module, D: Discriminator, x: torch.Tensor) -> None:
    """One direction: D on real and on fake images, G through D and through the way back."""
    fake = G(x)
    D.logits(x).sum().backward()
    D.logits(fake.detach()).sum().backward()
    D.requires_grad_(False)
    (D.logits(fake).sum() + G(fake).sum()).backward()
    D.requires_grad_(True)
