"""Images along a path between two noise vectors, and beyond its ends.

    python scripts/interpolate.py runs/NAME                       5 pairs, 10 images each, linear
    python scripts/interpolate.py runs/NAME --extrapolate 3 --path both

The i-th image of a pair is G of the point at t = i / K, i = 0 .. K; --extrapolate E adds
i = -E .. -1 and K + 1 .. K + E. Writes grids and the change a step into RUN/interpolation/.
"""

import argparse
import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import _root  # noqa: F401
import numpy as np
import torch
from torch import Tensor

from dataset import to_bytes
from inception import load_inception
from lib.command import command, flag
from lib.errors import UserError, need
from lib.files import write_beside_and_rename
from lib.seeding import generator
from metrics.digits import load_digits, predict
from scripts._figures import new_figure, write_figure
from scripts._saved_run import open_run
from trainer import Trainer
from training.modes import sampling

REFUSED = {
    "biggan": "needs a class beside the noise: python scripts/embeddings.py interpolates between"
    " classes, and within one.",
    "cdcgan": "needs labels beside the noise: wanted another GAN.",
}
LABELS = {
    "pixel": "pixel change a step (RMS, 0 to 1)",
    "feature": "Inception feature change a step",
}


def linear(z1: Tensor, z2: Tensor, t: float) -> Tensor:
    """z1 + t (z2 - z1). Half way the norm of two independent Gaussian z falls to 0.71 of theirs."""
    return z1 + t * (z2 - z1)


def spherical(z1: Tensor, z2: Tensor, t: float) -> Tensor:
    """The great circle through both directions, the norm linear in t. White 2016, arXiv:1609.04468.

    z1, z2 (d,); keeps to the shell |z| ~ sqrt(d) on which Gaussian noise lies. Where no one circle
    joins the two, as with d = 1, it is the line.
    """
    norms = torch.stack([z1.norm(), z2.norm()])
    u1, u2 = z1 / norms[0], z2 / norms[1]
    angle = torch.arccos((u1 @ u2).clamp(-1, 1))
    if torch.sin(angle) < 1e-3:
        return linear(z1, z2, t)
    direction = (torch.sin((1 - t) * angle) * u1 + torch.sin(t * angle) * u2) / torch.sin(angle)
    return direction * torch.lerp(norms[0], norms[1], t)


PATHS = {"linear": linear, "spherical": spherical}


def positions(images: int, extrapolate: int) -> list[float]:
    """t of each image: i / K for i = -E .. K + E, with K + 1 = images."""
    K = images - 1
    return [i / K for i in range(-extrapolate, K + extrapolate + 1)]


def interpolate(
    trainer: Trainer, path: str, *, pairs: int, images: int, extrapolate: int, seed: int
) -> Tensor:
    """(pairs, images + 2 * extrapolate, C, S, S) in [-1, 1]; the pairs depend on the seed alone."""
    model = trainer.config.model
    if why := REFUSED.get(model):
        raise UserError(f"{model} {why}")
    if not hasattr(trainer.config, "latent_dim"):
        raise UserError(f"{model} has no noise to interpolate in: wanted a GAN or a VAE.")
    size = (pairs, 2, trainer.config.latent_dim)
    ends = torch.randn(size, generator=generator("cpu", "interpolation", seed))
    ts = positions(images, extrapolate)
    z = torch.stack([PATHS[path](z1, z2, t) for z1, z2 in ends for t in ts])
    G = trainer.sampled_generator()
    with sampling(G):
        x = G(z[:, :, None, None].to(trainer.device))
    return x.cpu().unflatten(0, (pairs, len(ts)))


def pixel_change(x: Tensor) -> Tensor:
    """(pairs, steps): root mean square difference of neighbouring images, pixels in [0, 1]."""
    return x.diff(dim=1).div(2).square().mean((2, 3, 4)).sqrt()


def feature_change(x: Tensor, extractor: Any) -> Tensor:
    """(pairs, steps): Euclidean distance of neighbouring images in the extractor's features."""
    with torch.no_grad():
        features = torch.cat([extractor(b) for b in to_bytes(x.flatten(0, 1)).split(50)])
    return features.float().unflatten(0, x.shape[:2]).diff(dim=1).norm(dim=2)


def digits_along(x: Tensor, change: Tensor) -> dict[str, Any]:
    """Read the digits in frames (pairs, images, 1, S, S); change (pairs, images - 1) of pixels.

    turn_to_other: the mean change of steps between two digits over that of the others, if both.
    """
    classifier = load_digits()
    found = predict(classifier, to_bytes(x.flatten(0, 1)))
    labels = found.labels.unflatten(0, x.shape[:2])
    off = found.off_digits(classifier.measured).unflatten(0, x.shape[:2]).double()
    turns = labels.diff(dim=1) != 0
    ratio = float(change[turns].mean() / change[~turns].mean())
    return {
        "labels": labels.tolist(),
        "turn_to_other": ratio if math.isfinite(ratio) else None,
        "off_ends": float(off[:, [0, -1]].mean()),
        "off_between": float(off[:, 1:-1].mean()) if x.shape[1] > 2 else 0.0,
    }


def grid_figure(x: Tensor, ts: list[float], title: str) -> Any:
    """Rows are pairs, columns are t; what lies beyond the two ends has an orange frame."""
    rows, columns = x.shape[:2]
    figure, axes = new_figure(0.62 * columns, 0.62 * rows + 0.5, rows, columns)
    pixels = ((x + 1) / 2).movedim(2, 4).squeeze(4).numpy()
    for row, column in np.ndindex(rows, columns):
        axis, beyond = axes[row][column], not 0 <= ts[column] <= 1
        axis.imshow(pixels[row, column], cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        colour, width = ("tab:orange", 1.5) if beyond else ("0.7", 0.5)
        axis.spines[:].set(color=colour, linewidth=width)
        if row == 0:
            axis.set_title(f"{ts[column]:.2f}", fontsize=7)
    figure.suptitle(title, fontsize=8, parse_math=False)
    figure.tight_layout(pad=0.2, w_pad=0.15, h_pad=0.15, rect=(0, 0, 1, 1 - 0.1 / (0.62 * rows)))
    return figure


def change_figure(changes: dict[str, dict[str, Tensor]], ts: list[float]) -> Any:
    """One panel a measure: a thin line a pair, a thick one their mean, for every path."""
    measures = list(next(iter(changes.values())))
    figure, axes = new_figure(4.2 * len(measures), 3.2, 1, len(measures))
    middles = [(a + b) / 2 for a, b in pairwise(ts)]
    for axis, measure in zip(axes[0], measures, strict=True):
        for colour, (path, values) in zip(("tab:blue", "tab:red"), changes.items(), strict=False):
            axis.plot(middles, values[measure].T.numpy(), color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(middles, values[measure].mean(0).numpy(), color=colour, label=path)
        axis.axvspan(0, 1, color="0.5", alpha=0.1, linewidth=0)
        axis.set(xlabel="t (shaded: between the two ends)", ylabel=LABELS[measure], ylim=(0, None))
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def statistics(change: Tensor) -> dict[str, Any]:
    """Summarise (pairs, steps): the mean step, the largest, and their ratio (1: perfectly even)."""
    means = change.mean(1)  # 0 of a collapsed G: that is even
    ratios = torch.where(means > 0, change.amax(1) / means, torch.ones_like(means))
    return {
        "mean": float(change.mean()),
        "largest": float(change.max()),
        "largest_to_mean": float(ratios.mean()),
        "by_step": [float(v) for v in change.mean(0)],
    }


def examine(
    trainer: Trainer, paths: list[str], out: Path, extractor: Any, **drawn: int
) -> dict[str, Any]:
    """Write grids and changes into `out`; return what its interpolation.json says.

    drawn: as for interpolate. extractor: None for pixel changes alone.
    """
    out.mkdir(parents=True, exist_ok=True)
    images, extrapolate = drawn["images"], drawn["extrapolate"]
    ts, changes = positions(images, extrapolate), {}
    result = drawn | {"t": ts, "step": trainer.step, "files": [], "change": {}, "digits": {}}
    inside = slice(extrapolate, extrapolate + images - 1)  # the steps between the two ends
    for path in paths:
        x = interpolate(trainer, path, **drawn)
        changes[path] = {"pixel": pixel_change(x)}
        if extractor is not None:
            changes[path]["feature"] = feature_change(x, extractor)
        if trainer.config.dataset == "mnist":
            ends = slice(extrapolate, extrapolate + images)
            result["digits"][path] = digits_along(x[:, ends], changes[path]["pixel"][:, inside])
        title = f"{path} interpolation, t from z1 (0) to z2 (1)"
        result["files"].append(write_figure(grid_figure(x, ts, title), out / f"{path}.png"))
        result["change"][path] = {k: statistics(v[:, inside]) for k, v in changes[path].items()}
    result["files"].append(write_figure(change_figure(changes, ts), out / "change.png"))
    told = f"{json.dumps(result, indent=2)}\n".encode()
    write_beside_and_rename(out / "interpolation.json", told)
    return result


@command(
    flag("run_dir", type=Path, help="folder of a run, such as runs/NAME"),
    flag("--pairs", type=int, default=5, bounds=(1, 100), help="rows"),
    flag("--images", type=int, default=10, bounds=(2, 100), help="images a pair, K + 1"),
    flag("--extrapolate", type=int, default=0, bounds=(0, 100), help="images beyond each end"),
    flag("--path", choices=[*PATHS, "both"], default="linear", help="through the noise"),
    flag("--seed", type=int, default=0, bounds=(0, 2**63 - 1), help="of the noise vectors"),
    flag("--out", type=Path, help="folder to write to (default: RUN_DIR/interpolation)"),
    flag("--no_features", action="store_true", help="pixel changes alone, no Inception"),
)
def main(args: argparse.Namespace) -> None:
    need("matplotlib", "interpolate.py")  # before minutes of work
    paths = list(PATHS) if args.path == "both" else [args.path]
    out = args.out or args.run_dir / "interpolation"
    drawn = {name: getattr(args, name) for name in ("pairs", "images", "extrapolate", "seed")}
    trainer = open_run(args.run_dir)
    extractor = None if args.no_features else load_inception("cpu", "fp32")
    result = examine(trainer, paths, out, extractor, **drawn)
    for path, measures in result["change"].items():
        for measure, s in measures.items():
            print(
                f"{path:<9} {measure:<7} change a step: mean {s['mean']:.3f}, the largest of a pair"
                f" {s['largest_to_mean']:.2f} times its mean"
            )
    for name in result["files"]:
        print(f"wrote {name}")


if __name__ == "__main__":
    sys.exit(main())
