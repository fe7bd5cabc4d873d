"""PyTorch's DCGAN example as tutorials write it: DataLoader, BCELoss, Adam, losses read back."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from GAN import INITS
from lib.config import Config

Networks = tuple[nn.Module, nn.Module]  # G, D


def dcgan_networks(config: Config) -> Networks:
    """G and D, one Sequential each."""
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
    G, D = nn.Sequential(*ups, nn.Tanh()), nn.Sequential(*downs)
    return G.apply(INITS["normal"]), D.apply(INITS["normal"])


def dcgan(config: Config, device: torch.device, networks: Networks | None = None) -> Iterator[None]:
    """Take a step each time; networks: G and D, instead of new ones."""
    kind = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST}[config.dataset]
    size = (config.image_size, config.image_size)
    steps = [transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    data = kind(config.data_dir, transform=transforms.Compose(steps), download=True)
    loader = DataLoader(data, config.batch_size, shuffle=True, drop_last=True)
    G, D = (network.to(device) for network in networks or dcgan_networks(config))
    rate, betas, bce = config.learning_rate, (config.beta1, config.beta2), nn.BCELoss()
    adam_G, adam_D = (torch.optim.Adam(n.parameters(), rate, betas) for n in (G, D))
    while True:
        for x, _ in loader:
            x = x.to(device)
            ones, zeros = torch.ones(len(x), device=device), torch.zeros(len(x), device=device)
            fake = G(torch.randn(len(x), config.latent_dim, 1, 1, device=device))
            adam_D.zero_grad()
            real, judged = D(x), D(fake.detach())
            d_loss = bce(real, ones) + bce(judged, zeros)
            d_loss.backward()
            adam_D.step()
            adam_G.zero_grad()
            g_loss = bce(D(fake), ones)
            g_loss.backward()
            adam_G.step()
            [v.mean().item() for v in (d_loss, g_loss, real, judged)]
            yield
