"""Perception against distortion: runs of --model srgan that differ in a weight, in one picture.

    python scripts/sweep.py --model srgan --grid adversarial_weight=0,0.1,0.3,1,3 --seeds 1
    python scripts/tradeoff.py runs/srgan-*              tradeoff.png, and the table on the screen

A point a run: its LPIPS over its MSE, both over all test images, with two standard errors; beside
them nearest, bilinear and bicubic. No upscaler is left of and below all others (Blau & Michaeli
2018): to the lower right it looks better, to the upper left it is nearer.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from config import Parser, print_error
from errors import UserError
from runlog import read_results
from scripts.saved_run import named_runs, saved_settings
from superres.resampling import UPSCALERS

METRICS = ("mse", "psnr", "ssim", "lpips")


class Point(NamedTuple):
    """An upscaler: what it is called, and results by metric; weight: None for one untrained."""

    name: str
    weight: float | None
    results: dict[str, dict[str, Any]]


def read_points(runs: list[Path], setting: str) -> list[Point]:
    """The untrained upscalers of the first run, then the runs by the setting's value."""
    points = []
    untrained: list[Point] = []
    for run in runs:
        settings, results = saved_settings(run), read_results(run)
        if setting not in settings:
            raise UserError(f"{run} has no setting {setting!r}: wanted runs of --model srgan.")
        found = newest(results)
        if not {"mse", "lpips"} <= set(found):
            raise UserError(f"{run} has no scores mse and lpips: score it by main.py --run.")
        name = f"{setting} {settings[setting]:g}, {found['mse']['step']:,} steps"
        points.append(Point(name, settings[setting], {m: found[m] for m in METRICS if m in found}))
        untrained = untrained or [
            Point(u, None, {m: found[f"{m}_{u}"] for m in METRICS if f"{m}_{u}" in found})
            for u in UPSCALERS
        ]
    return untrained + sorted(points, key=lambda p: p.weight)


def newest(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last result of each metric, all of the last scored step."""
    last = max((r["step"] for r in results), default=0)
    return {r["metric"]: r for r in results if r["step"] == last}


def in_a_table(points: list[Point]) -> str:
    """Markdown; each value with its standard error."""
    lines = ["| upscaler | " + " | ".join(METRICS) + " |", "| --- |" + " --- |" * len(METRICS)]
    for point in points:
        cells = [
            f"{r['value']:.4g} ± {r['error']:.1g} ({r['of_bilinear']:.3f}x)" if r else ""
            for r in (point.results.get(metric) for metric in METRICS)
        ]
        lines.append(f"| {point.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(points: list[Point], setting: str, path: Path) -> None:
    """Written beside and renamed."""
    import matplotlib  # here: it would slow --help

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    trained = [p for p in points if p.weight is not None]
    for chosen, style in ((trained, "o-"), ([p for p in points if p.weight is None], "ks")):
        x, y = ([p.results[m]["value"] for p in chosen] for m in ("mse", "lpips"))
        dx, dy = ([2 * p.results[m]["error"] for p in chosen] for m in ("mse", "lpips"))
        axis.errorbar(x, y, dy, dx, fmt=style, markersize=5, elinewidth=0.7)
        for a, b, point in zip(x, y, chosen, strict=True):
            text = point.name if point.weight is None else f"{point.weight:g}"
            axis.annotate(text, (a, b), xytext=(6, 5), textcoords="offset points", fontsize=9)
    axis.set_xlabel("MSE of values in [0, 1]: distortion")
    axis.set_ylabel("LPIPS (AlexNet): unlike to the eye")
    axis.set_title(f"{setting} at each point; bars: two standard errors", fontsize=10)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    figure.savefig(part, format="png", dpi=150)
    plt.close(figure)
    part.replace(path)


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    p.add_argument("runs", nargs="+", help="folders of scored runs")
    p.add_argument("--out", default="tradeoff.png", help="PNG to write (default: tradeoff.png)")
    p.add_argument("--setting", default="adversarial_weight", help="(default: adversarial_weight)")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    path = Path(args.out)
    try:
        if path.suffix.lower() != ".png" or not path.parent.is_dir():
            raise UserError(f"--out {path}: wanted a name that ends in .png, in a folder there is.")
        points = read_points(named_runs(args.runs), args.setting)
        draw(points, args.setting, path)
    except UserError as error:
        return print_error(error)
    except OSError as error:
        return print_error(UserError(f"{error.filename or path} can't be used: {error.strerror}."))
    print(f"{in_a_table(points)}\n\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
