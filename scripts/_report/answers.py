"""What the report says of paths between two z, and of linear layers beside convolutions."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.errors import UserError
from scripts._report.blocks import Block, Heading, Picture, Pictures, Text
from scripts._report.groups import HIDDEN, Group, label
from scripts._report.plots import enlarged, file_name
from scripts._report.runs import Run
from scripts.evolution import read_picture

SMOOTH = 2.0  # a path's largest step over its mean one; by eye, a jump shows above it
WORSE = 0.1  # share of frames: more than that beyond the ends' is no luck of 40 frames
LOOKED_AT = 500  # images of each run, for their grain


def picture(prefix: str, path: Path | str, alt: str) -> Picture:
    path = Path(path)
    return Picture(file_name(prefix, path.stem), alt, enlarged(read_picture(path)))


def pictures(prefix: str, files: list[str], of: str) -> list[Picture]:
    return [picture(prefix, file, f"{Path(file).stem.capitalize()}: {of}") for file in files]


def sample(run: Run, step: int, path: Path) -> Picture:
    alt = f"Grid of images that {run.short} makes of its {fixed(run)} at step {step}"
    return picture(run.name, path, alt)


def fixed(run: Run) -> str:
    """Name what its sample grids are made from."""
    return "fixed noise" if hasattr(run.config, "latent_dim") else "fixed images"


def interpolation(found: dict[str, Any], which: str, run: Run) -> list[Block]:
    """The frames, where they are smooth, where the digit changes, and the FID beside that."""
    intro = (
        f"{which}: {found['images']} images a pair from z1 (t = 0) to z2 (t = 1), {found['pairs']}"
        f" pairs that the seed {found['seed']} draws; orange frames lie beyond the ends"
        " (extrapolation)."
    )
    of = "images along paths between pairs of noise vectors"
    shown = pictures("interpolation", found["files"], of)
    sentences = []
    for path, measures in found["change"].items():
        sentences.append(smoothness(path, measures))
        if digits := found["digits"].get(path):
            sentences += digits_along(path, digits, found["t"])
    return [Text(intro), Pictures(shown), *map(Text, [*sentences, conclusion(found, run)])]


def smoothness(path: str, measures: dict[str, Any]) -> str:
    ratios = {measure: change["largest_to_mean"] for measure, change in measures.items()}
    listed = " and ".join(f"{r:.1f} times its mean in {m}s" for m, r in ratios.items())
    even = "The path is smooth" if max(ratios.values()) < SMOOTH else "The path has jumps"
    return (
        f"{path.capitalize()}. {even}: the largest step of a pair is on average {listed} (1:"
        " perfectly even)."
    )


def digits_along(path: str, digits: dict[str, Any], ts: list[float]) -> list[str]:
    """Which digits the frames show and where they change; whether those between are as good."""
    middles = [(a + b) / 2 for a, b in pairwise(t for t in ts if 0 <= t <= 1)]
    rows = []
    for labels in digits["labels"]:
        turns = zip(middles, pairwise(labels), strict=True)
        rows.append(f"{labels[0]}" + "".join(f" → {b} ({t:.2f})" for t, (a, b) in turns if a != b))
    sentences = [f"A classifier reads, row by row (in brackets t of a change): {'; '.join(rows)}."]
    if ratio := digits["turn_to_other"]:
        sentences.append(
            f"A step in which the digit changes moves the pixels {ratio:.1f} times as far as one in"
            f" which it stays: one digit {'flips' if ratio > SMOOTH else 'morphs'} into the other."
        )
    ends, between = digits["off_ends"], digits["off_between"]
    worse = between > ends + WORSE
    why = " At its middle the linear path's z are short, |z| down to 0.71 of what G was trained on."
    sentences.append(
        f"To it {between:.0%} of the frames between the ends look like no digit, and {ends:.0%} of"
        f" the ends: what lies between is {'worse than' if worse else 'as good as'} the ends."
        + why
        * (worse and path == "linear")
    )
    return sentences


def conclusion(found: dict[str, Any], run: Run) -> str:
    """What the paths say of the generator, beside its FID."""
    ratios = [c["largest_to_mean"] for m in found["change"].values() for c in m.values()]
    smooth = (
        "Sharp transitions would be a sign of memorised images (Radford et al. 2015, sec. 6.1,"
        " arXiv:1511.06434); "
    )
    smooth += "there are none" if max(ratios) < SMOOTH else "here are some"
    if not run.fid:
        return f"{smooth}. The run has no FID to set beside this."
    off = [d[part] for d in found["digits"].values() for part in ("off_ends", "off_between")]
    shows = f", and up to {max(off):.0%} of these frames are no digits" if off else ""
    return (
        f"{smooth}. Smooth is not yet good: the FID is {run.fid['value']:.1f}{shows}. It compares"
        " single images with the data's and does not see how they are joined."
    )


def mlp_beside_cnn(groups: list[Group]) -> list[Block]:
    """CNN and MLP runs that are otherwise alike: figures, samples, and why they differ."""
    blocks: list[Block] = [Heading("MLP beside CNN", "mlp")]
    mlps = [(g, g.settings | {"arch": "cnn"}) for g in groups if g.settings.get("arch") == "mlp"]
    pairs = [(cnn, mlp) for cnn in groups for mlp, alike in mlps if cnn.settings == alike]
    if not pairs:
        return [*blocks, Text("No MLP run beside an equal CNN run: --arch mlp makes one.")]
    for pair in pairs:
        at = label(pair[0], [n for n in ("latent_dim", *HIDDEN) if n in pair[0].settings])
        kinds = dict(zip(("CNN", "MLP"), pair, strict=True))
        blocks.append(Text(f"At {at}: {'; '.join(figures(*kind) for kind in kinds.items())}."))
        blocks += [Text(why) for why in [fine_detail(*(g.runs[0] for g in pair))] if why]
        drawn = {f"{k}, {at}": g.runs[0] for k, g in kinds.items() if g.runs[0].samples}
        pictures = [sample(run, *run.samples[-1]) for run in drawn.values()]
        blocks.append(Pictures(pictures, tuple(drawn), "pair"))
    return [*blocks, Text(WHY_LINEAR)]


WHY_LINEAR = (
    "A known reason: a fully connected layer ignores that pixels have neighbours. It would learn"
    " the same stroke anew at every place, while a convolution shares its weights over the image"
    " and ties each pixel to those around it (LeCun et al. 1998, Gradient-based learning applied"
    " to document recognition, sec. II). Without that tie each pixel keeps an error of its own,"
    " which is grain."
)


def figures(kind: str, group: Group) -> str:
    size = " and ".join(f"{n:,}" for n in group.runs[0].parameters.values())
    score = f"{group.mean:.1f}" if group.fids else "not scored"
    return f"{kind} ({size} parameters) FID {score}"


def fine_detail(cnn: Run, mlp: Run) -> str:
    """Compare the grain of both runs' images with the training set's; "" if that is not there."""
    try:
        real = cnn.trainer.load_data("train").images[:LOOKED_AT]
    except UserError:
        return ""
    made = [torch.cat([*run.trainer.generate(LOOKED_AT, run.config.seed)]) for run in (cnn, mlp)]
    of_cnn, of_mlp, of_real = (grain(images) for images in (*made, real))
    return (
        f"Fine detail, from half the highest frequency up, holds {of_mlp:.1%} of the power of the"
        f" MLP's images, {of_cnn:.1%} of the CNN's and {of_real:.1%} of real ones."
        + " The MLP's are grainy."
        * (of_mlp > 2 * max(of_cnn, of_real))
    )


def grain(images: Tensor) -> float:
    """Share of the power of images uint8 (N, C, S, S) above half the Nyquist frequency."""
    x = images.cpu().double()
    power = torch.fft.fft2(x - x.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    places = torch.fft.fftfreq(x.shape[-1]).abs()  # cycles a pixel, to 0.5
    return float(power[torch.maximum(places[:, None], places) >= 0.25].sum() / power.sum())
