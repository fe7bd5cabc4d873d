"""Measure how near enlarged test images are to the true ones, beside untrained upscalers.

All are computed on bytes, as an image would be saved; images are uint8 (N, C, H, W), values (N,).
MSE and PSNR are of RGB (or grey) values in [0, 1], no border is cut off. docs/srgan.md.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset import to_bytes, to_signed
from lib.guards import Bar
from lib.results import Result, mean_result
from metrics.lpips import lpips_if_any
from metrics.protocols import most_of
from systems.srgan.resampling import UPSCALERS

BATCH_SIZE = 50
ROUNDING = 1 / 12 / 255**2  # the mean squared error that rounding to bytes makes by itself
Measure = Callable[[Tensor, Tensor], Tensor]


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each image, of values in [0, 1]."""
    return (x.float() - y.float()).div(255).square().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """-10 log10 MSE of each image, in dB: the peak is 1. At most 58.9, that of rounding."""
    return -10 * mse(x, y).clamp_min(ROUNDING).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image, at most 1. Wang et al. 2004, eq. 13, sec. III-C.

    Windows of 11x11 inside the image, Gaussian with sigma 1.5, weights summing to 1; K1 = 0.01,
    K2 = 0.03, values in [0, 1]; each channel by itself, then the mean.
    """
    x, y = x.double() / 255, y.double() / 255
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = windowed(x), windowed(y)
    var_x = windowed(x * x) - mean_x.square()
    var_y = windowed(y * y) - mean_y.square()
    covariance = windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1).float()


def windowed(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H - 10, W - 10): weighted means over 11x11 windows."""
    places = torch.arange(11, dtype=x.dtype, device=x.device) - 5
    weights = torch.exp(-places.square() / (2 * 1.5**2))
    weights /= weights.sum()
    n, channels, height, width = x.shape
    planes = x.reshape(n * channels, 1, height, width)
    rows = F.conv2d(planes, weights.view(1, 1, 11, 1))
    return F.conv2d(rows, weights.view(1, 1, 1, 11)).view(n, channels, height - 10, width - 10)


@torch.no_grad()
def restoration_scores(trainer) -> list[Result]:
    """Apply each measure to G and to what learns nothing, on the same small images."""
    data, split = trainer.held_out()
    n = most_of(trainer.config, len(data))
    G = trainer.sampled_generator()
    upscalers = {"": lambda low: trainer.sample(low, G=G)}
    upscalers |= {f"_{name}": upscale for name, upscale in UPSCALERS.items()}
    chosen: dict[str, Measure] = {"mse": mse, "psnr": psnr, "ssim": ssim}
    if lpips := lpips_if_any(trainer.device):
        chosen["lpips"] = lpips
    values: dict[tuple[str, str], list[Tensor]] = {(m, u): [] for m in chosen for u in upscalers}
    with Bar(total=n, desc="scores of enlarged images", unit="img") as bar:
        for images in data.images[:n].split(BATCH_SIZE):
            images = images.to(trainer.device)
            low = trainer.shrunk(to_signed(images))
            for mark, upscale in upscalers.items():
                made = to_bytes(upscale(low))
                for name, measure in chosen.items():
                    values[name, mark].append(measure(made, images).cpu())
            bar.update(len(images))
    means = {key: torch.cat(found) for key, found in values.items()}
    results = [restoration_result(name, mark, means, split) for name, mark in means]
    for result in results:
        if result["measure"] == "lpips":
            result["weights_sha256"] = chosen["lpips"].digest
    return results


def restoration_result(
    name: str, mark: str, values: dict[tuple[str, str], Tensor], split: str
) -> Result:
    """Mean of one value an image with its standard error, and its ratio to bilinear's mean.

    No ratio of decibels, nor if bilinear is without error, as on plain colours.
    """
    own = values[name, mark]
    about = f"{len(own):,} {split} images by {mark.removeprefix('_') or 'G'}"
    result = mean_result(f"{name}{mark}", own, about) | {"measure": name}
    bilinear = values[name, "_bilinear"].double().mean().item()
    if name != "psnr" and bilinear:
        result["of_bilinear"] = result["value"] / bilinear
        result["about"] += f", {result['of_bilinear']:.3f}x bilinear's"
    return result
