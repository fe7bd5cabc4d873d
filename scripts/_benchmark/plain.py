"""The loops that others write for the same work: DataLoader, BCELoss, Adam, losses read back.

DCGAN's has the networks of PyTorch's example; the others have ours, so that only loops compare.
"""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets, transforms

from dataset import load_spec, to_signed
from lib.config import Config
from sources.iclevr import find, multi_hot
from sources.spec import DataSpec
from systems.cyclegan.domains import load_domain

Networks = dict[str, nn.Module]
bce = nn.BCELoss()


def adam(config: Config, *networks: nn.Module, lr: float = 0.0) -> torch.optim.Adam:
    parameters = nn.ModuleList(networks).parameters()
    return torch.optim.Adam(parameters, lr or config.learning_rate, (config.beta1, config.beta2))


def update(optimizer: torch.optim.Adam, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def loop(
    loader: DataLoader,
    make: Callable[..., Tensor],
    judge: Callable[..., Tensor],
    optimizers: tuple[torch.optim.Adam, torch.optim.Adam],
    device: torch.device,
    *,
    extra: Callable[[Tensor, Tensor], Tensor | float] = lambda x, fake: 0.0,
    g_steps: int = 1,
) -> Iterator[None]:
    """A step each time: make and judge get the batch (x, ...); extra is added to G's loss."""
    adam_G, adam_D = optimizers
    while True:
        for batch in loader:
            x, *y = (tensor.to(device) for tensor in batch)
            ones, fake = torch.ones(len(x), device=device), make(x, *y)
            real, judged = judge(x, *y), judge(fake.detach(), *y)
            d_loss = bce(real, ones) + bce(judged, torch.zeros_like(ones))
            update(adam_D, d_loss)
            for _ in range(g_steps):
                fake = make(x, *y) if g_steps > 1 else fake
                g_loss = bce(judge(fake, *y), ones) + extra(x, fake)
                update(adam_G, g_loss)
            [v.detach().mean().item() for v in (d_loss, g_loss, real, judged)]
            yield


def to_tensor(size: int) -> transforms.Compose:
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    return transforms.Compose(steps)


def decoded(images: Tensor, config: Config) -> DataLoader:
    """Batches of images that are decoded already, like ours."""
    data = TensorDataset(to_signed(images))
    return DataLoader(data, config.batch_size, shuffle=True, drop_last=True)


def dcgan_networks(config: Config) -> tuple[nn.Module, nn.Module]:
    """G and D as tutorials write them, one Sequential each."""
    g, d = config.generator_hidden_dim, config.discriminator_hidden_dim
    doublings = [2**i for i in range(config.image_size.bit_length() - 3)]  # 32 pixels: 1, 2, 4
    channels = [g * k for k in reversed(doublings)]
    ups = [nn.ConvTranspose2d(config.latent_dim, channels[0], 4, 1, 0, bias=False)]
    for a, b in pairwise([*channels, 1]):
        ups += [nn.BatchNorm2d(a), nn.ReLU(True), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
    downs = [nn.Conv2d(1, d, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for a, b in pairwise(d * k for k in doublings):
        downs += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, True)]
    downs += [nn.Conv2d(d * doublings[-1], 1, 4, bias=False), nn.Sigmoid(), nn.Flatten(0)]
    return nn.Sequential(*ups, nn.Tanh()), nn.Sequential(*downs)


def dcgan(config: Config, _: Networks, device: torch.device) -> Iterator[None]:
    """PyTorch's example."""
    kind = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST}[config.dataset]
    data = kind(config.data_dir, transform=to_tensor(config.image_size), download=True)
    loader = DataLoader(data, config.batch_size, shuffle=True, drop_last=True)
    G, D = (network.to(device) for network in dcgan_networks(config))

    def make(x: Tensor, _: Tensor) -> Tensor:
        return G(torch.randn(len(x), config.latent_dim, 1, 1, device=device))

    return loop(loader, make, lambda x, _: D(x), (adam(config, G), adam(config, D)), device)


def cdcgan(config: Config, networks: Networks, device: torch.device) -> Iterator[None]:
    """The course report's (spec row 7): images are decoded each time, D sees y at every pass."""
    rows = json.loads((Path(config.data_dir) / "iclevr" / "train.json").read_text())
    root, transform = find(Path(config.data_dir)).root, to_tensor(config.image_size)
    G, D = networks["G"], networks["D"]

    def decode(pairs: list[tuple[str, Tensor]]) -> tuple[Tensor, Tensor]:
        images = [transform(Image.open(root / name).convert("RGB")) for name, _ in pairs]
        return torch.stack(images), torch.stack([y for _, y in pairs])

    def make(x: Tensor, y: Tensor) -> Tensor:
        return G(torch.randn(len(y), config.latent_dim, 1, 1, device=device), y)

    pairs = list(zip(rows, multi_hot(rows.values()).float(), strict=True))
    loader = DataLoader(pairs, config.batch_size, shuffle=True, collate_fn=decode)
    adams = adam(config, G), adam(config, D, lr=config.learning_rate_d)
    return loop(loader, make, D, adams, device, g_steps=config.g_steps)


def srgan(config: Config, networks: Networks, device: torch.device) -> Iterator[None]:
    """Adversarial loss and squared error."""
    images = load_spec("folder", "train", DataSpec.of(config), "cpu").images
    G, D = networks["G"], networks["D"]

    def make(x: Tensor) -> Tensor:
        return G(F.interpolate(x, scale_factor=0.25, mode="bilinear", antialias=True))

    def error(x: Tensor, fake: Tensor) -> Tensor:
        return ((x - fake) / 2).square().sum() / len(x)

    adams = adam(config, G), adam(config, D)
    return loop(decoded(images, config), make, D, adams, device, extra=error)


def cyclegan(config: Config, networks: Networks, device: torch.device) -> Iterator[None]:
    """The course's algorithm 2: translations are made again for the Gs."""
    cpu = torch.device("cpu")
    loaders = [decoded(load_domain(config, d, "train", 3, cpu).images, config) for d in "AB"]
    G_ab, G_ba = networks["G_a2b"], networks["G_b2a"]
    D_a, D_b = networks["D_a"].logits, networks["D_b"].logits
    adam_G, adam_D = adam(config, G_ab, G_ba), adam(config, networks["D_a"], networks["D_b"])
    while True:
        for (a,), (b,) in zip(*loaders, strict=False):
            a, b = a.to(device), b.to(device)
            real = ((D_a(a) - 1) ** 2).mean() + ((D_b(b) - 1) ** 2).mean()
            fake = (D_a(G_ba(b).detach()) ** 2).mean() + (D_b(G_ab(a).detach()) ** 2).mean()
            update(adam_D, real + fake)
            losses = []
            for x, there, back, D in ((b, G_ba, G_ab, D_a), (a, G_ab, G_ba, D_b)):
                made = there(x)
                losses += [((D(made) - 1) ** 2).mean()]
                losses += [config.lambda_cycle * (back(made) - x).abs().mean()]
            update(adam_G, sum(losses))
            [loss.item() for loss in (real, fake, *losses)]
            yield


PLAIN_LOOPS = {"dcgan": dcgan, "cdcgan": cdcgan, "cyclegan": cyclegan, "srgan": srgan}
