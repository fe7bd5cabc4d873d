"""The report's plots as PNG bytes, transparent and in colours that show on a light or dark page."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from metrics.curve_rules import NASH
from scripts._figures import file_name, new_figure
from scripts._report.blocks import Picture
from scripts._report.groups import Group, label

INK, BLUE = "#808080", "#3b8fd6"


def smooth(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Centred moving average over a share of the curve; shorter windows at the ends."""
    half = max(1, round(len(values) * share / 2))
    total, index = np.cumsum([0.0, *values]), np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def curve(
    run_name: str, tag: str, points: list[tuple[int, float]], *, loss: str = "bce", of: str = ""
) -> Picture:
    """Plot the finite values, their moving average, the equilibrium's (of losses: bce alone)."""
    steps, values = np.array(points, dtype=float).T
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    mean = smooth(values)

    def draw(axis: Any) -> None:
        axis.plot(steps, values, color=BLUE, alpha=0.4, linewidth=0.7, clip_on=False)
        axis.plot(steps, mean, color=BLUE, linewidth=1.6, clip_on=False)
        if tag in NASH and (loss == "bce" or tag.startswith("D(")):
            axis.axhline(NASH[tag], color="tab:orange", linestyle="--", linewidth=1)
        if len(values) and values.min() >= 0:
            axis.set_ylim(0, 1 if tag.startswith("D(") and values.max() <= 1 else None)
        axis.set(title=plain(tag), xlabel="step")

    alt = f"{tag} of {of or run_name} over steps {points[0][0]} to {points[-1][0]}"
    if len(values):
        alt += f": smoothed, from {mean[0]:.2f} to {mean[-1]:.2f}, between {mean.min():.2f}"
        alt += f" and {mean.max():.2f}"
    return Picture(file_name(run_name, tag), alt, render(draw, (4.2, 2.6)))


def fid_plot(groups: list[Group], names: list[str], marks: dict[str, float]) -> Picture:
    """A dot a run with its error bar, a line a group mean; marks, by name, are vertical lines."""

    def draw(axis: Any) -> None:
        for row, group in enumerate(groups):
            axis.plot([group.mean] * 2, [row - 0.3, row + 0.3], color=BLUE, linewidth=2)
            errors = [run.fid.get("error") or 0.0 for run in group.scored]
            places, style = [row] * len(errors), {"fmt": "o", "color": BLUE, "markersize": 4}
            axis.errorbar(group.fids, places, xerr=errors, **style)
        for (name, value), colour in zip(marks.items(), ("tab:green", "tab:orange"), strict=False):
            axis.axvline(value, color=colour, linestyle="--", lw=1, label=f"{name} {value:.1f}")
        axis.set(xlabel="FID (lower is better)", xlim=(0, None))
        axis.set_yticks(range(len(groups)), [plain(label(g, names)) for g in groups])
        axis.set_ylim(len(groups) - 0.4, -0.6)
        if marks:
            axis.legend(fontsize=8, frameon=False, labelcolor="linecolor")

    listed = "; ".join(f"{label(g, names)}: {g.mean:.1f}" for g in groups)
    alt = f"FID by setting: {listed}"
    return Picture("fid.png", alt, render(draw, (7, min(60, 1 + 0.45 * len(groups)))))


def plain(text: str) -> str:
    """The text as matplotlib draws it letter by letter: no mathematics, no bytes of a file name."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def render(draw: Callable[[Any], None], size: tuple[float, float]) -> bytes:
    inked = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    with matplotlib.rc_context(dict.fromkeys(inked, INK) | {"axes.titlesize": 10, "font.size": 9}):
        figure, ((axis,),) = new_figure(*size)
        figure.set_layout_engine("constrained")
        draw(axis)
        axis.spines[["top", "right"]].set_visible(False)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110, transparent=True)
    return small(Image.open(png).quantize(32))


def enlarged(image: Image.Image, least: int = 512) -> bytes:
    """The picture with whole pixels repeated, so that its width is `least` or more."""
    times = -(-least // image.width)
    return small(
        image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    )


def small(image: Image.Image) -> bytes:
    png = io.BytesIO()
    image.save(png, format="png", optimize=True)
    return png.getvalue()
