"""The networks of DCGAN (Radford et al. 2016) for any power-of-two image size from 16 to 256.

    32x32, one channel, hidden_dim h:
    G   z (N, latent, 1, 1) -> 4h x 4 x 4 -> 2h x 8 x 8 -> h x 16 x 16 -> image (N, 1, 32, 32)
    D   image (N, 1, 32, 32) -> h x 16 x 16 -> 2h x 8 x 8 -> 4h x 4 x 4 -> logit (N,)

Each doubling of the image adds a layer beside the 4x4 map, with twice the channels.
The MLP pair maps the same shapes by linear layers alone.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

IMAGE_SIZES = (16, 32, 64, 128, 256)


def widths(hidden_dim: int, image_size: int) -> list[int]:
    """Channels from the largest feature map to the 4x4 one: 32 -> [h, 2h, 4h], 64 -> [.., 8h]."""
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image_size {image_size}: wanted one of {IMAGE_SIZES}")
    return [hidden_dim * 2**i for i in range(image_size.bit_length() - 3)]


def normed(*layers: nn.Module, channels: int) -> nn.Sequential:
    """These layers, which make so many channels, then BatchNorm and ReLU."""
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def up(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.Sequential:
    """Transposed convolution + BatchNorm + ReLU: (N, in, S, S) -> (N, out, 2S, 2S)."""
    grow = nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=bias)
    return normed(grow, channels=out_channels)


def project(latent_dim: int, channels: int) -> nn.Sequential:
    """Transposed convolution + BatchNorm + ReLU: z (N, latent_dim, 1, 1) -> (N, channels, 4, 4)."""
    return normed(nn.ConvTranspose2d(latent_dim, channels, 4, bias=False), channels=channels)


def up_resized(in_channels: int, out_channels: int) -> nn.Sequential:
    """Nearest upsampling + convolution + BatchNorm + ReLU: (N, in, S, S) -> (N, out, 2S, 2S).

    Every output pixel is covered by as many kernel taps as its neighbours, so that no checkerboard
    arises (Odena, Dumoulin & Olah 2016).
    """
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return normed(nn.Upsample(scale_factor=2), conv, channels=out_channels)


def down(
    in_channels: int, out_channels: int, norm: str, *, bias: bool = False, slope: float = 0.2
) -> nn.Sequential:
    """Strided convolution + norm + LeakyReLU: (N, in, S, S) -> (N, out, S/2, S/2)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=bias or norm == "none"),
        NORMS[norm](out_channels),
        nn.LeakyReLU(slope, inplace=True),
    )


# --d_norm -> a layer of D for so many channels; only batch lets samples of a batch see each other
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "layer": lambda channels: nn.GroupNorm(1, channels),
}

UPSAMPLINGS = ("transposed", "resize")


class Generator(nn.Module):
    """z (N, latent_dim, 1, 1) ~ N(0, I) -> image (N, C, S, S) in [-1, 1]. Radford et al. fig. 1."""

    def __init__(
        self,
        *,
        num_channels: int = 1,
        latent_dim: int = 16,
        hidden_dim: int = 16,
        image_size: int = 32,
        upsample: str = "transposed",
        init: str = "normal",
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        wide_to_narrow = widths(hidden_dim, image_size)[::-1]  # [4h, 2h, h]
        if upsample == "transposed":
            grow = up
            self.project = project(latent_dim, wide_to_narrow[0])  # (N, 4h, 4, 4)
            self.to_image = nn.ConvTranspose2d(hidden_dim, num_channels, 4, 2, 1, bias=False)
        else:
            grow = up_resized
            self.project = project_linearly(latent_dim, wide_to_narrow[0])  # (N, 4h, 4, 4)
            self.to_image = nn.Sequential(
                nn.Upsample(scale_factor=2),
                nn.Conv2d(hidden_dim, num_channels, 3, padding=1, bias=False),
            )
        self.ups = nn.Sequential(*(grow(a, b) for a, b in pairwise(wide_to_narrow)))
        self.apply(INITS[init])

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.to_image(self.ups(self.project(z))))


def project_linearly(latent_dim: int, channels: int) -> nn.Sequential:
    """z (N, latent_dim, 1, 1) -> (N, channels, 4, 4): the linear map of `project`."""
    linear = nn.Conv2d(latent_dim, channels * 16, 1, bias=False)
    return normed(linear, nn.Flatten(), nn.Unflatten(1, (channels, 4, 4)), channels=channels)


class Discriminator(nn.Module):
    """image (N, C, S, S) in [-1, 1] -> probability (N,) that it is real. G's mirror.

    Without any norm ("none") the convolutions have biases, which a norm would take away again.
    """

    def __init__(
        self,
        *,
        num_channels: int = 1,
        hidden_dim: int = 16,
        image_size: int = 32,
        norm: str = "batch",
        init: str = "normal",
    ) -> None:
        super().__init__()
        narrow_to_wide = widths(hidden_dim, image_size)
        bias = norm == "none"
        self.from_image = nn.Sequential(  # no norm on the image itself (Radford et al., sec. 3)
            nn.Conv2d(num_channels, hidden_dim, 4, 2, 1, bias=bias),
            nn.LeakyReLU(0.2, inplace=True),
        )  # (N, h, S/2, S/2)
        self.downs = nn.Sequential(*(down(a, b, norm) for a, b in pairwise(narrow_to_wide)))
        self.to_logit = nn.Conv2d(narrow_to_wide[-1], 1, 4, bias=bias)  # (N, 1, 1, 1)
        self.apply(INITS[init])

    def logits(self, x: Tensor) -> Tensor:
        """The value under the sigmoid, (N,): what every loss uses."""
        # a 4x4 convolution of a 4x4 map is a linear map, and as one it is ten times faster on a
        # CPU; channels last, as the map lies in memory
        features = self.downs(self.from_image(x)).permute(0, 2, 3, 1).flatten(1)
        last = self.to_logit
        weight = last.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(features, weight, last.bias).squeeze(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))


class MLPGenerator(nn.Module):
    """z (N, latent_dim, 1, 1) ~ N(0, I) -> image (N, C, S, S) in [-1, 1], by linear layers alone.

    Three hidden layers, of h, 2h and 4h units: at latent 100, h = 256 these are 256, 512 and 1024.
    """

    def __init__(
        self, *, num_channels: int, latent_dim: int, hidden_dim: int, image_size: int, init: str
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = (num_channels, image_size, image_size)
        h = hidden_dim
        self.layers = nn.Sequential(
            *linear_norm(latent_dim, h),  # (N, h)
            *linear_norm(h, 2 * h),  # (N, 2h)
            *linear_norm(2 * h, 4 * h),  # (N, 4h)
            nn.Linear(4 * h, math.prod(self.image_shape)),  # (N, C * S * S)
        )
        self.apply(INITS[init])

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layers(z.flatten(1))).unflatten(1, self.image_shape)


class MLPDiscriminator(nn.Module):
    """image (N, C, S, S) in [-1, 1] -> probability (N,) that it is real, by linear layers alone.

    Two hidden layers, of 2h and h units.
    """

    def __init__(self, *, num_channels: int, hidden_dim: int, image_size: int, init: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(  # no BatchNorm: D would see real and fake batches apart
            nn.Linear(num_channels * image_size**2, 2 * hidden_dim),  # (N, 2h)
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(2 * hidden_dim, hidden_dim),  # (N, h)
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(hidden_dim, 1),
        )
        self.apply(INITS[init])

    def logits(self, x: Tensor) -> Tensor:
        """The value under the sigmoid, (N,): what every loss uses."""
        return self.layers(x.flatten(1)).squeeze(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))


def linear_norm(in_features: int, out_features: int) -> list[nn.Module]:
    """Linear + BatchNorm + LeakyReLU, as the layers of G between z and the image."""
    return [
        nn.Linear(in_features, out_features, bias=False),
        nn.BatchNorm1d(out_features),
        nn.LeakyReLU(0.2, inplace=True),
    ]


def init_normal(module: nn.Module) -> None:
    """Conv weights ~ N(0, 0.02), BatchNorm weights ~ N(1, 0.02), biases 0 (Radford sec. 4).

    Linear weights keep PyTorch's initialisation, which knows the layer's width.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    init_scaled(module)


def init_scaled(module: nn.Module) -> None:
    """Initialise as `init_normal` does, but leave conv weights as PyTorch draws them.

    That is uniform with variance 1 / (3 fan_in): a signal is as strong behind a narrow layer as
    behind a wide one, where N(0, 0.02) lets it fade in a narrow D that no norm lifts up again.
    """
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if getattr(module, "bias", None) is not None and isinstance(module.bias, Tensor):
        nn.init.zeros_(module.bias)


# --init -> what is done to every layer
INITS: dict[str, Callable[[nn.Module], None]] = {"normal": init_normal, "scaled": init_scaled}

# --arch -> the pair of networks
ARCHITECTURES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "cnn": (Generator, Discriminator),
    "mlp": (MLPGenerator, MLPDiscriminator),
}


def get_generator(
    num_channels: int,
    latent_dim: int,
    hidden_dim: int,
    device: torch.device | str,
    *,
    image_size: int = 32,
    arch: str = "cnn",
    init: str = "normal",
    upsample: str = "transposed",
) -> nn.Module:
    """A freshly initialised generator of ARCHITECTURES on `device`; upsample is cnn's alone."""
    network = ARCHITECTURES[arch][0]
    own = {"upsample": upsample} if network is Generator else {}
    return network(
        num_channels=num_channels,
        latent_dim=latent_dim,
        hidden_dim=hidden_dim,
        image_size=image_size,
        init=init,
        **own,
    ).to(device)


def get_discriminator(
    num_channels: int,
    hidden_dim: int,
    device: torch.device | str,
    *,
    image_size: int = 32,
    arch: str = "cnn",
    init: str = "normal",
    norm: str = "batch",
    spectral_norm: bool = False,
) -> nn.Module:
    """A freshly initialised discriminator of ARCHITECTURES on `device`; norm is cnn's alone."""
    network = ARCHITECTURES[arch][1]
    own = {"norm": norm} if network is Discriminator else {}
    D = network(
        num_channels=num_channels, hidden_dim=hidden_dim, image_size=image_size, init=init, **own
    )
    return (add_spectral_norm(D) if spectral_norm else D).to(device)


def add_spectral_norm(network: nn.Module) -> nn.Module:
    """Divide every linear and convolution weight by its largest singular value, in place.

    Miyato et al. 2018, alg. 1: one power iteration a forward pass in training mode; the vectors are
    buffers, so that checkpoints hold them.
    """
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            parametrizations.spectral_norm(layer)
    return network


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
