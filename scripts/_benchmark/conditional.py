"""A conditional training step on i-CLEVR: ours against the loop of the course report (spec row 7).

Its structure is kept: a DataLoader of PIL images that are decoded and resized each time, the image
and the painted labels joined for D at every pass, G's fakes for D made with their graph, D's
weights' gradients taken in each of G's four updates though nobody reads them, Adam as it comes,
both losses read back a step.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from scripts._benchmark.limits import count_flops
from sources.iclevr import find, multi_hot

G_STEPS, LATENT, EMBEDDING, SIZE, LABELS = 4, 100, 300, 64, 24


class PILImages(torch.utils.data.Dataset):
    """(image (3, 64, 64) in [-1, 1], labels (24,) float), decoded whenever it is asked for."""

    def __init__(self, data_dir: str) -> None:
        from torchvision import transforms

        rows = json.loads((Path(data_dir) / "iclevr" / "train.json").read_text())
        root = find(Path(data_dir)).root
        self.paths = [root / name for name in rows]
        self.labels = multi_hot(rows.values()).float()
        self.transform = transforms.Compose(
            [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.open(self.paths[i]).convert("RGB")), self.labels[i]


class PlainG(nn.Module):
    def __init__(self, h: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Linear(LABELS, EMBEDDING), nn.ReLU())
        channels, layers = [LATENT + EMBEDDING, 8 * h, 4 * h, 2 * h, h], []
        for i, (a, b) in enumerate(pairwise(channels)):
            layers += [nn.ConvTranspose2d(a, b, 4, 2, int(i > 0)), nn.BatchNorm2d(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(h, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.layers(torch.cat((z, self.expand(y)), 1)[:, :, None, None])


class PlainD(nn.Module):
    def __init__(self, h: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Linear(LABELS, SIZE**2), nn.LeakyReLU())
        layers = []
        for a, b in pairwise([4, h, 2 * h, 4 * h, 8 * h]):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(8 * h, 1, 4), nn.Sigmoid(), nn.Flatten(0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        painted = self.expand(y).view(-1, 1, SIZE, SIZE)
        return self.layers(torch.cat((x, painted), 1))


def plain_conditional_loop(
    data_dir: str, *, hidden_dim: int, device: torch.device, workers: int = 0
) -> Iterator[None]:
    """A step each time."""
    loader = torch.utils.data.DataLoader(
        PILImages(data_dir), 64, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    G, D = PlainG(hidden_dim).to(device), PlainD(hidden_dim).to(device)
    bce = nn.BCELoss()
    adam_G, adam_D = (torch.optim.Adam(net.parameters(), lr) for net, lr in ((G, 1e-4), (D, 4e-4)))
    while True:
        for images, labels in loader:
            x, y = images.to(device), labels.to(device)
            ones, zeros = torch.ones(len(x), device=device), torch.zeros(len(x), device=device)
            adam_D.zero_grad()
            real_loss = bce(D(x, y), ones)
            fake = G(torch.randn(len(x), LATENT, device=device), y)
            d_loss = real_loss + bce(D(fake.detach(), y), zeros)
            d_loss.backward()
            adam_D.step()
            for _ in range(G_STEPS):
                adam_G.zero_grad()
                g_loss = bce(D(G(torch.randn(len(x), LATENT, device=device), y), y), ones)
                g_loss.backward()
                adam_G.step()
            _ = (d_loss.item(), g_loss.item())
            yield


def conditional_step_flops(hidden_dim: int, batch_size: int = 64) -> int:
    """What the step needs: G's fakes for D without a graph, no gradient of D's weights for G."""
    with torch.device("meta"):
        G, D = PlainG(hidden_dim), PlainD(hidden_dim)
        x, z = torch.empty(batch_size, 3, SIZE, SIZE), torch.empty(batch_size, LATENT)
        y = torch.empty(batch_size, LABELS)

    def step() -> None:
        with torch.no_grad():
            fake = G(z, y)
        (D(x, y).sum() + D(fake, y).sum()).backward()
        D.requires_grad_(False)
        for _ in range(G_STEPS):
            D(G(z, y), y).sum().backward()

    return count_flops(step)


def conditional_flags(hidden_dim: int) -> list[str]:
    """Of main.py: the source's settings at another width."""
    width = str(hidden_dim)
    widths = ["--generator_hidden_dim", width, "--discriminator_hidden_dim", width]
    return ["--model", "cdcgan", "--preset", "iclevr", *widths]
