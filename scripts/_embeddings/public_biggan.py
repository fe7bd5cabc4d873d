"""The public BigGAN-deep generators of ImageNet, 128 to 512 pixels, for scripts/embeddings.py.

Their network is the package pytorch-pretrained-biggan's, which is optional; here it is wrapped in
the form that the scripts look at. Brock et al. 2018, app. B, fig. 16 and tables 7 to 9.
"""

import sys
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from lib.config import load_saved
from lib.errors import UserError, need
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


def load_public(path: Path) -> PublicBigGAN:
    """Read a published file and its config.json, biggan-deep-128-config.json or the like beside it.

    Raises UserError if one is missing, or if they don't belong together; no code of theirs is run.
    """
    biggan = need("pytorch-pretrained-biggan", "--weights")
    stem = path.name[: -len(WEIGHTS)] if path.name.endswith(WEIGHTS) else path.stem + "-"
    config = path.with_name(stem + CONFIG)
    for file in (path, config):
        if not file.is_file():
            raise UserError(
                f"--weights {path}: {file.name} is not there. The addresses of the weights and of"
                " their config.json are in the package's model.py; put both into one folder."
            )
    settings = load_saved(config)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = biggan.BigGAN(biggan.BigGANConfig.from_dict(settings))
        differing = network.load_state_dict(state, strict=False)
        if differing.missing_keys:
            raise KeyError(differing.missing_keys[0])
    except Exception as error:  # an unpickler that is fed garbage raises anything
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{path} and {config.name} make no BigGAN ({why}): fetch both again, of one network."
        ) from None
    if over := differing.unexpected_keys:
        print(f"{path.name}: {len(over)} unknown tensors passed over: {over[0]}", file=sys.stderr)
    return PublicBigGAN(network)
