"""The public BigGAN-deep generators of ImageNet, 128 to 512 pixels, for scripts/embeddings.py.

Their network is the package pytorch-pretrained-biggan's, which is optional; here it is wrapped in
the form that the scripts look at. Brock et al. 2018, app. B, fig. 16 and tables 7 to 9.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from lib.config import load_saved
from lib.errors import UserError
from lib.seeding import generator

WEIGHTS, CONFIG = "pytorch_model.bin", "config.json"  # how the published files' names end
AT_ONCE = 8  # images: at 512 pixels one takes some 100 MB
CUT = 2.0  # the package's own: z is cut off at 2, then multiplied by the truncation


class PublicBigGAN:
    """A trained generator of the package as a ClassModel.

    Truncation is the package's: z ~ N(0, I) given |z_i| <= 2, times a truncation in (0, 1], for
    which BatchNorm has statistics of its own. 0, none elsewhere, is its largest here, 1.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)
        self.class_names = names_of(network.config.num_classes)

    def embeddings(self) -> Tensor:
        return self.network.embeddings.weight.T.detach().float().clone()

    def draw_z(self, n: int, seed: int, *, truncation: float = 0.0) -> Tensor:
        z = torch.empty(n, self.network.config.z_dim)
        nn.init.trunc_normal_(z, a=-CUT, b=CUT, generator=generator("cpu", "z", seed))
        return z * share(truncation)

    @torch.no_grad()
    def images_of(self, z: Tensor, r: Tensor, *, truncated: float | None = None) -> Tensor:
        parts = torch.cat([z, r], 1).split(AT_ONCE)
        return torch.cat([self.network.generator(part, share(truncated or 0.0)) for part in parts])


def share(truncation: float) -> float:
    """The package's truncation, in (0, 1]."""
    if truncation > 1:
        raise UserError(
            f"truncation {truncation:g}: these weights take one in (0, 1], a factor of z; 0 is 1."
        )
    return truncation or 1.0


def names_of(num_classes: int) -> list[str]:
    """ImageNet's 1000 in the order of its folders, which torchvision brings; else numbers."""
    names = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    return list(names) if num_classes == len(names) else [str(i) for i in range(num_classes)]


def package() -> ModuleType:
    """UserError, with how to get it, where the package can't be imported."""
    try:
        import pytorch_pretrained_biggan
    except ImportError as error:
        raise UserError(
            f"--weights needs the package of those networks ({error}): pip install"
            " pytorch-pretrained-biggan. The addresses of the weights are in its model.py."
        ) from None
    return pytorch_pretrained_biggan


def load_public(path: Path) -> PublicBigGAN:
    """A published file, beside its config.json. UserError: not there, of other sizes or keys."""
    biggan = package()
    if not path.is_file():
        raise UserError(f"--weights {path}: no file is there. {where(biggan, '_MODEL_')}")
    settings = read_settings(path, biggan)
    state = read_state(path)
    try:
        network = biggan.BigGAN(biggan.BigGANConfig.from_dict(settings))
    except Exception as error:  # whatever a config of another kind leads its constructor into
        raise UserError(
            f"{config_path(path)} builds no BigGAN ({type(error).__name__}: {error}): put the one"
            f" that was published with {path.name} there."
        ) from None
    fill(network, state, path)
    return PublicBigGAN(network)


def where(biggan: ModuleType, kind: str) -> str:
    """The published addresses, by the package's own map."""
    maps = vars(sys.modules.get(f"{biggan.__name__}.model", biggan))
    urls = maps.get(f"PRETRAINED{kind}ARCHIVE_MAP", {})
    return f"Fetch one of: {', '.join(urls.values()) or 'those in the package’s model.py'}."


def config_path(path: Path) -> Path:
    """biggan-deep-128-pytorch_model.bin -> biggan-deep-128-config.json, beside it."""
    stem = path.name[: -len(WEIGHTS)] if path.name.endswith(WEIGHTS) else path.stem + "-"
    return path.with_name(stem + CONFIG)


def read_settings(path: Path, biggan: ModuleType) -> dict[str, Any]:
    config = config_path(path)
    if not config.is_file():
        raise UserError(
            f"{path} needs its {config.name} beside it. {where(biggan, '_CONFIG_')} It goes there"
            " under that name."
        )
    return load_saved(config)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name; no code of the file is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # an unpickler that is fed garbage raises anything
        raise UserError(
            f"{path} is torn or no file of tensors: fetch the published one anew."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds no tensors by name: wanted a published {WEIGHTS}.")
    return state


def fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """UserError where a tensor is missing or of another size; one too many is only told."""
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise UserError(
            f"{path} is of another network than its {config_path(path).name} says: {missing[0]} and"
            f" {len(missing) - 1} more of its {len(wanted)} tensors are missing."
        )
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise UserError(
                f"{path} is of another size than its {config_path(path).name} says: {name} is"
                f" {tuple(state[name].shape)}, wanted {tuple(value.shape)}."
            )
    if over := sorted(set(state) - set(wanted)):
        print(f"{path.name}: {len(over)} unknown tensors passed over: {over[0]}", file=sys.stderr)
    network.load_state_dict({name: state[name] for name in wanted})
