"""The two pictures of a collapse report. Figures are made without pyplot: nothing stays open."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

EXAMPLES = 4  # generated images of a digit under its bar
BLUE, ORANGE, BLACK = "#3b6ea8", "#d9772b", "#000000"


def counts_figure(result: dict[str, Any], images: Tensor, labels: Tensor, title: str) -> Figure:
    """Counts with their 95 % intervals beside the training frequencies; examples underneath.

    `result` as collapse.label_statistics gives it; images uint8 (N, 1, S, S), labels (N,).
    """
    figure = Figure(figsize=(8, 7.4), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.02, ha="left", parse_math=False)  # a path may have $
    bars, strip = figure.subplots(2, 1, height_ratios=(3.05, 2.9))
    draw_counts(bars, result)
    strip.imshow(examples(images, labels), cmap="gray", vmin=0, vmax=255, extent=(-0.5, 9.5, 0, 4))
    strip.set_aspect("auto")  # the ratios above make its cells square and keep them under the bars
    strip.spines[:].set_visible(False)
    strip.set_xticks(range(10))
    strip.set_yticks([])
    strip.set_xlabel(f"digit that the classifier sees, with the first {EXAMPLES} images of each")
    for axes in (bars, strip):
        axes.set_xlim(-0.6, 9.6)
    return figure


def draw_counts(axes: Axes, result: dict[str, Any]) -> None:
    n, counts = result["n"], np.array(result["counts"])
    low, high = n * np.array(result["low"]), n * np.array(result["high"])
    expected = n * np.array(result["expected_shares"])
    digits = np.arange(10)
    whiskers = np.stack([counts - low, high - counts]).clip(min=0)
    interval = {"capsize": 4, "label": "95 % interval"}
    bars = axes.bar(
        digits, counts, 0.7, yerr=whiskers, error_kw=interval, color=BLUE, label="generated"
    )
    axes.bar_label(bars, padding=2, fontsize=9)
    axes.hlines(expected, digits - 0.42, digits + 0.42, color=ORANGE, lw=2.5, label="training set")
    axes.set_ylim(0, 1.12 * max(high.max(), expected.max()))
    axes.set_xticks(digits)
    axes.set_ylabel(f"images of {n:,}")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), fontsize=9)


def examples(images: Tensor, labels: Tensor) -> np.ndarray:
    """A column a digit, white if there are too few images."""
    cells = torch.full((EXAMPLES, 10, *images.shape[2:]), 255, dtype=torch.uint8)
    for digit in range(10):
        found = images[labels == digit][:EXAMPLES, 0]
        cells[: len(found), digit] = found
    return sheet(cells, below=2)


def sheet(cells: Tensor, *, below: int) -> np.ndarray:
    """Images (R, C, S, S) on one (R (S + 2 + below), C (S + 4)), white between them."""
    cells = F.pad(cells, (2, 2, 2, below), value=255)
    return cells.permute(0, 2, 1, 3).flatten(2).flatten(0, 1).cpu().numpy()


def neighbours_figure(
    images: Tensor, neighbours: Tensor, distances: Tensor, *, names: list[str], typical: list[float]
) -> Figure:
    """Rows of a sample (R, 1, S, S) and its nearest training images (R, K, 1, S, S).

    distances (R, K) stand under them; names (R) say how the samples were chosen; typical is the
    1 %, 50 % and 99 % quantile of the distance from a real test image to its nearest.
    """
    rows, columns = distances.shape
    side, gap = images.shape[-1], 9  # the gap below an image holds its caption
    pictures = torch.cat([images[:, None], neighbours], 1)[:, :, 0]  # (R, 1 + K, S, S)
    figure = Figure(figsize=(1.15 * (columns + 1), 1.35 * rows + 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet(pictures, below=gap), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    for row in range(rows):
        captions = [names[row], *(f"{distance:.2f}" for distance in distances[row])]
        for column, caption in enumerate(captions):
            x, y = (column + 0.5) * (side + 4), row * (side + 2 + gap) + side + 2.5
            colour = BLACK if column else ORANGE
            axes.text(x, y, caption, ha="center", va="top", fontsize=9, color=colour)
    low, median, high = typical
    axes.set_title(
        "Generated images (left), their nearest training images, the pixel distance.\n"
        f"A real test image is {median:.1f} from its nearest, 98 of 100 are {low:.1f} to"
        f" {high:.1f};\na copy would be near 0.",
        fontsize=9.5,
        loc="left",
    )
    return figure


def as_tensor(figure: Figure) -> Tensor:
    """The picture as (3, H, W) in [-1, 1], as RunLog.images takes it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3])
    return pixels.permute(2, 0, 1).float() / 127.5 - 1
