"""The report's plots as PNG bytes, each for a light and a dark page."""

import io
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from scripts._report.runs import Group, label

Points = list[tuple[int, float]]

# text and lines, background, curve
THEMES = {"light": ("#222222", "#ffffff", "#1f6fb4"), "dark": ("#dddddd", "#16181c", "#6db3f2")}
EQUILIBRIUM = {  # the value of each curve where D guesses: D(x) = D(G(z)) = 1/2
    "discriminator_loss": 2 * np.log(2),
    "generator_loss": np.log(2),
    "D(x)": 0.5,
    "D(G(z1))": 0.5,
    "D(G(z2))": 0.5,
}


@dataclass(frozen=True)
class Picture:
    """PNG bytes with what they show in words; `dark` only where a plot has its own dark form."""

    name: str
    alt: str
    light: bytes
    dark: bytes | None = None


def smooth(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Centred moving average over a share of the curve; shorter windows at the ends."""
    half = max(1, round(len(values) * share / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def curve(run_name: str, tag: str, points: Points, *, loss: str = "bce") -> Picture:
    """One curve, its moving average over the raw points, and the equilibrium's value.

    Of the losses that is known for bce alone.
    """
    steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    mean = smooth(values)

    def draw(axis: plt.Axes, colour: str) -> None:
        axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.7)
        axis.plot(steps, mean, color=colour, linewidth=1.6)
        if tag in EQUILIBRIUM and (loss == "bce" or tag.startswith("D(")):
            axis.axhline(EQUILIBRIUM[tag], color="tab:orange", linestyle="--", linewidth=1)
        low = 0.0 if values.min() >= 0 else None
        high = 1.0 if tag.startswith("D(") else float(np.quantile(values, 0.995)) * 1.1 or None
        axis.set(title=tag, xlabel="step", ylim=(low, high))

    alt = (
        f"{tag} of {run_name} over steps {points[0][0]} to {points[-1][0]}:"
        f" smoothed, from {mean[0]:.2f} to {mean[-1]:.2f}, between {mean.min():.2f}"
        f" and {mean.max():.2f}"
    )
    name = f"{run_name}-{tag.translate(str.maketrans('', '', '()'))}.png"
    return in_both_themes(name, alt, draw, size=(4.2, 2.6))


def fid_plot(
    groups: list[Group], names: list[str], floor: float | None, pass_mark: float | None
) -> Picture:
    """A dot a run with its error bar, a line a group mean; the pass mark and the floor."""
    scored = sorted((g for g in groups if g.values), key=lambda g: g.mean)

    def draw(axis: plt.Axes, colour: str) -> None:
        for row, group in enumerate(scored):
            axis.plot([group.mean] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2)
            errors = [run.fid["error"] or 0.0 for run in group.runs if run.fid]
            axis.errorbar(
                group.values, [row] * len(errors), xerr=errors, fmt="o", color=colour, markersize=4
            )
        if pass_mark is not None:
            axis.axvline(
                pass_mark, color="tab:orange", ls="--", lw=1, label=f"pass mark {pass_mark:.0f}"
            )
        if floor is not None:
            axis.axvline(floor, color="tab:green", linestyle=":", label=f"floor {floor:.1f}")
        axis.set(xlabel="FID (lower is better)", xlim=(0, None))
        axis.set_yticks(range(len(scored)), [label(g, names) for g in scored])
        axis.set_ylim(len(scored) - 0.4, -0.6)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False, labelcolor="linecolor")

    listed = "; ".join(f"{label(g, names)}: {g.mean:.1f}" for g in scored)
    return in_both_themes("fid.png", f"FID by setting: {listed}", draw, (7, 1 + 0.45 * len(scored)))


def in_both_themes(name: str, alt: str, draw, size: tuple[float, float]) -> Picture:
    return Picture(name, alt, *(render(draw, size, *THEMES[theme]) for theme in ("light", "dark")))


def render(draw, size: tuple[float, float], ink: str, paper: str, colour: str) -> bytes:
    style = {
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "axes.titlesize": 10,
        "axes.facecolor": paper,
        "figure.facecolor": paper,
        "font.size": 9,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
    }
    with plt.rc_context(style):
        figure, axis = plt.subplots(figsize=size)
        draw(axis, colour)
        axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout(pad=0.4)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        plt.close(figure)
    return compact(png.getvalue())


def compact(png: bytes, *, colours: int = 32) -> bytes:
    """The PNG with so few colours (0: all); a grey one as grey. A page of fifty stays light."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        image = red
    elif colours:
        image = image.quantize(colours)
    smaller = io.BytesIO()
    image.save(smaller, format="png", optimize=True)
    return smaller.getvalue()
