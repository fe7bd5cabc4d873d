"""Perception against distortion: runs of --model srgan that differ in a weight, in one picture.

    python scripts/sweep.py --model srgan --grid adversarial_weight=0,0.1,0.3,1,3 --seeds 1
    python scripts/tradeoff.py runs/srgan-*              tradeoff.png, and the table on the screen

A point a run: its LPIPS over its MSE, both over all test images, with two standard errors; beside
them nearest, bilinear and bicubic. Further left images are nearer by their pixels, further down by
LPIPS, a perceptual distance within pairs of images. Blau & Michaeli 2018 prove of the best
attainable that the distance between the distributions of true and enlarged images is never less at
less distortion. LPIPS is no such distance and a trained G not the best: here it is measured.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib.errors import UserError
from lib.flags import Parser, print_error
from lib.runlog import read_results
from scripts._saved_run import named_runs, saved_settings
from systems.srgan.resampling import UPSCALERS

METRICS = ("mse", "psnr", "ssim", "lpips")
TASK = ("dataset", "image_size", "downsample")  # in which runs that compare agree


class Point(NamedTuple):
    """An upscaler: what it is called, and results by metric; weight: None for one untrained."""

    name: str
    weight: float | None
    results: dict[str, dict[str, Any]]


def read_points(runs: list[Path], setting: str) -> list[Point]:
    """The untrained upscalers of the first run, then the runs by the setting's value.

    UserError where a run is of other images, or has no such number or no scores.
    """
    points = []
    untrained: list[Point] = []
    first: dict[str, Any] = {}
    for run in runs:
        settings = saved_settings(run)
        if setting not in settings:
            raise UserError(f"{run} has no setting {setting!r}: wanted runs of --model srgan.")
        value = settings[setting]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"--setting {setting} is {value!r} in {run}: wanted one of numbers.")
        found = newest(read_results(run))
        if not found:
            raise UserError(f"{run} has no scores mse and lpips: score it by main.py --run.")
        task = {name: settings.get(name) for name in TASK} | {"data": found["mse"].get("data")}
        first = first or task
        for name in (n for n in task if task[n] != first[n]):
            raise UserError(
                f"{run} does not compare with {runs[0]}: its {name} is {task[name]!r}, not"
                f" {first[name]!r}. Leave one of the two out."
            )
        name = f"{setting} {value:g}, {found['mse']['step']:,} steps"
        points.append(Point(name, value, {m: found[m] for m in METRICS if m in found}))
        untrained = untrained or [
            Point(u, None, {m: found[f"{m}_{u}"] for m in METRICS if f"{m}_{u}" in found})
            for u in UPSCALERS
        ]
    return untrained + sorted(points, key=lambda p: p.weight)


def newest(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last result of each metric, all of the last step that has both MSE and LPIPS."""
    steps = ({r["step"] for r in results if r["metric"] == m} for m in ("mse", "lpips"))
    last = max(set.intersection(*steps), default=None)
    return {r["metric"]: r for r in results if r["step"] == last}


def in_a_table(points: list[Point]) -> str:
    """Markdown; each value with its standard error."""
    lines = ["| upscaler | " + " | ".join(METRICS) + " |", "| --- |" + " --- |" * len(METRICS)]
    for point in points:
        cells = [cell(point.results.get(metric)) for metric in METRICS]
        lines.append(f"| {point.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(result: dict[str, Any] | None) -> str:
    """Its ratio to bilinear's too, but for decibels, of which older results have one."""
    if not result:
        return ""
    text = f"{result['value']:.4g} ± {result['error']:.1g}"
    if result["metric"].startswith("psnr") or "of_bilinear" not in result:
        return text
    return f"{text} ({result['of_bilinear']:.3f}x)"


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
