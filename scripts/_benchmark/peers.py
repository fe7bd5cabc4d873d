"""The peers: what others wrote for the same work, each given the same weights file and images.

A peer that is not installed (pip install -r requirements-bench.txt), or that cannot take the file,
is left out by name with the reason.
"""

import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from inception.weights import RELEASE, find_weights

Features = Callable[[Tensor], Tensor]  # images (N, 1, H, W) uint8 -> features (N, 2048)

NOT_INSTALLED = "not installed: pip install -r requirements-bench.txt"
CLEAN_FID_OWN = (
    "its default network is a TorchScript archive, code and weights in one, fetched from its"
    " publisher: it takes no weights file (its legacy_pytorch mode does)"
)


def plain_loop(
    data_dir: str,
    *,
    latent_dim: int,
    hidden_dim: int,
    device: torch.device,
    image_size: int = 32,
    dataset: str = "mnist",
    workers: int = 0,
) -> Iterator[None]:
    """A step each time: the loop that tutorials teach, with DataLoader and transforms."""
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [transforms.Resize(image_size), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    )
    kind = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST}[dataset]
    data = kind(data_dir, transform=transform, download=True)
    loader = torch.utils.data.DataLoader(
        data, 64, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    networks = plain_networks(latent_dim, hidden_dim, image_size)
    G, D = (net.to(device) for net in networks)
    bce = nn.BCELoss()
    adam_G, adam_D = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (G, D))
    ones, zeros = torch.ones(64, device=device), torch.zeros(64, device=device)
    while True:
        for images, _ in loader:
            x = images.to(device)
            D.zero_grad()
            real = D(x)
            real_loss = bce(real, ones)
            real_loss.backward()
            fake = G(torch.randn(64, latent_dim, 1, 1, device=device))
            judged = D(fake.detach())
            fake_loss = bce(judged, zeros)
            fake_loss.backward()
            adam_D.step()
            G.zero_grad()
            judged_again = D(fake)
            loss = bce(judged_again, ones)
            loss.backward()
            adam_G.step()
            [v.detach().mean().item() for v in (real_loss + fake_loss, loss, real, judged)]
            yield


def plain_networks(
    latent_dim: int, hidden_dim: int, image_size: int = 32
) -> tuple[nn.Module, nn.Module]:
    """The networks of GAN.py as tutorials write them: one Sequential each."""
    h = hidden_dim
    channels = [h * 2**i for i in range(image_size.bit_length() - 3)]  # 32: h, 2h, 4h
    ups = [nn.ConvTranspose2d(latent_dim, channels[-1], 4, 1, 0, bias=False)]
    for a, b in pairwise(channels[::-1]):
        ups += [nn.BatchNorm2d(a), nn.ReLU(True), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
    ups += [nn.BatchNorm2d(h), nn.ReLU(True), nn.ConvTranspose2d(h, 1, 4, 2, 1, bias=False)]
    downs = [nn.Conv2d(1, h, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for a, b in pairwise(channels):
        downs += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, True)]
    downs += [nn.Conv2d(channels[-1], 1, 4, bias=False), nn.Sigmoid(), nn.Flatten(0)]
    G, D = nn.Sequential(*ups, nn.Tanh()), nn.Sequential(*downs)
    for module in (*G.modules(), *D.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return G, D


def write_weights(folder: Path, source: str | Path | None = None) -> Path:
    """The weights (find_weights) as the one file that all take, with a classifier of zeros that FID
    does not use. It lies where torch.hub looks for the release if TORCH_HOME is `folder`."""
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = folder / "hub" / "checkpoints" / RELEASE
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(find_weights(source) | classifier, path)
    return path


def rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def pytorch_fid(weights: Path, device: torch.device) -> Features:
    from pytorch_fid import inception

    state = torch.load(weights, weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
        network = inception.InceptionV3([3]).eval().to(device)
    return lambda images: network(rgb(images.float() / 255))[0].flatten(1)


def torch_fidelity(weights: Path, device: torch.device) -> Features:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device)
    return lambda images: network(rgb(images))[0]


def torchmetrics(weights: Path, device: torch.device) -> Features:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights))
    network = metric.inception.to(device)
    return lambda images: network(rgb(images))


def clean_fid(weights: Path, device: torch.device) -> Features:
    """Its legacy_pytorch mode, which resizes image for image on the CPU."""
    from cleanfid import inception_pytorch
    from cleanfid.features import build_feature_extractor
    from cleanfid.resize import build_resizer

    state = torch.load(weights, weights_only=True)
    with mock.patch.object(inception_pytorch, "load_state_dict_from_url", return_value=state):
        network = build_feature_extractor("legacy_pytorch", device, use_dataparallel=False)
    resize = build_resizer("legacy_pytorch")

    def features(images: Tensor) -> Tensor:
        arrays = rgb(images).permute(0, 2, 3, 1).cpu().numpy()
        resized = np.stack([resize(array) for array in arrays])
        return network(torch.from_numpy(resized).permute(0, 3, 1, 2).to(device))

    return features


INCEPTION_PEERS: dict[str, Callable[[Path, torch.device], Features]] = {
    "pytorch-fid": pytorch_fid,
    "torch-fidelity": torch_fidelity,
    "torchmetrics": torchmetrics,
    "clean-fid, legacy_pytorch": clean_fid,
}

# they scale bytes by (x - 128) / 128, as the TensorFlow graph does; the others by 2 x / 255 - 1
CENTRED_AT_128 = ("torch-fidelity", "torchmetrics")


def inception_peers(
    weights: Path, device: torch.device
) -> tuple[dict[str, Features], dict[str, str]]:
    """Those that can take part by name, and why the others are left out."""
    peers, left_out = {}, {"clean-fid, clean": CLEAN_FID_OWN}
    for name, build in INCEPTION_PEERS.items():
        try:
            with warnings.catch_warnings():  # theirs, about how they call torchvision
                warnings.simplefilter("ignore")
                peers[name] = build(weights, device)
        except ImportError as error:
            left_out[name] = f"{NOT_INSTALLED} ({error})"
        except Exception as error:  # another version than the pinned one may raise anything
            left_out[name] = f"cannot be set up ({type(error).__name__}: {error})"
    return peers, left_out


def torchmetrics_distance() -> Callable[..., Tensor] | None:
    """Its distance of (mu1, cov1, mu2, cov2), by eigvals of C1 C2; None if it is not installed."""
    if find_spec("torchmetrics") is None:
        return None
    from torchmetrics.image import fid

    return fid._compute_fid
