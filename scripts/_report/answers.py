"""Write what the report says of paths between two z, and of linear layers beside convolutions."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.errors import UserError
from scripts._figures import file_name
from scripts._report.blocks import Block, Heading, Picture, Pictures, Text, say
from scripts._report.groups import HIDDEN, Group, label
from scripts._report.plots import enlarged
from scripts._report.runs import Run
from scripts.evolution import read_picture

SMOOTH = 2.0  # a path's largest step over its mean one; by eye, a jump shows above it
WORSE = 0.1  # share of frames: more than that beyond the ends' is no luck of 40 frames
LOOKED_AT = 500  # images of each run, for their grain


def picture(prefix: str, path: Path, alt: str) -> Picture:
    return Picture(file_name(prefix, path.stem), alt, enlarged(read_picture(path)))


def pictures(prefix: str, files: list[str], of: str) -> list[Picture]:
    return [picture(prefix, f, f"{f.stem.capitalize()}: {of}") for f in map(Path, files)]


def sample(run: Run, step: int, path: Path) -> Picture:
    alt = f"Grid of images that {run.short} makes of its {fixed(run)} at step {step}"
    return picture(run.name, path, alt)


def fixed(run: Run) -> str:
    """Name what its sample grids are made from."""
    return "fixed noise" if hasattr(run.config, "latent_dim") else "fixed images"


def interpolation(found: dict[str, Any], which: str, run: Run) -> list[Block]:
    """The frames, where they are smooth, where the digit changes, and the FID beside that."""
    of = "images along paths between pairs of noise vectors"
    sentences = [sentence for path in found["change"] for sentence in along(path, found)]
    ratios = [c["largest_to_mean"] for m in found["change"].values() for c in m.values()]
    here = "there are none" if max(ratios) < SMOOTH else "here are some"
    fid = f"{run.fid['value']:.1f}" if run.fid else "not known here"
    sentences.append(say("memory", here=here, fid=fid))
    shown = Pictures(pictures("interpolation", found["files"], of))
    return [Text(say("interpolation", which=which, **found)), shown, *map(Text, sentences)]


def along(path: str, found: dict[str, Any]) -> list[str]:
    """Say how even a path is; which digits it shows, where they change, how good the frames are."""
    ratios = {name: change["largest_to_mean"] for name, change in found["change"][path].items()}
    listed = " and ".join(f"{r:.1f} times its mean in {name}s" for name, r in ratios.items())
    is_smooth = "is smooth" if max(ratios.values()) < SMOOTH else "has jumps"
    said = [say("evenness", path=path.capitalize(), is_smooth=is_smooth, ratios=listed)]
    if not (digits := found["digits"].get(path)):
        return said
    if digits["off_ends"] > 0.5:
        return [*said, say("no digits", ends=digits["off_ends"])]
    middles = [(a + b) / 2 for a, b in pairwise(t for t in found["t"] if 0 <= t <= 1)]
    rows = []
    for labels in digits["labels"]:
        turns = zip(middles, pairwise(labels), strict=True)
        rows.append(f"{labels[0]}" + "".join(f" → {b} ({t:.2f})" for t, (a, b) in turns if a != b))
    said.append(say("digits", rows="; ".join(rows)))
    if ratio := digits["turn_to_other"]:
        said.append(say("turns", ratio=ratio, flips="flips" if ratio > SMOOTH else "morphs"))
    ends, between = digits["off_ends"], digits["off_between"]
    as_good = "worse than" if between > ends + WORSE else "as good as"
    said.append(say("between", between=between, ends=ends, as_good=as_good))
    return said + [say("short z")] * (as_good == "worse than" and path == "linear")


def mlp_beside_cnn(groups: list[Group]) -> list[Block]:
    """Each MLP beside the CNN nearest in size that is otherwise alike: figures, samples, why."""
    blocks: list[Block] = [Heading("MLP beside CNN", "mlp")]
    cnns, mlps = ([g for g in groups if g.settings.get("arch") == arch] for arch in ("cnn", "mlp"))
    pairs = [(nearest, mlp) for mlp in mlps if (nearest := nearest_in_size(mlp, cnns))]
    if not pairs:
        return [*blocks, Text("No MLP run beside a CNN run: --arch mlp makes one.")]
    for pair in pairs:
        said, shown = [], {}
        for kind, group in zip(("CNN", "MLP"), pair, strict=True):
            run, at = group.runs[0], f"{kind}, {label(group, [])}"
            size = " and ".join(f"{n:,}" for n in run.parameters.values())
            score = f"{group.mean:.1f}" if group.fids else "not scored"
            said.append(f"{at} ({size} parameters): FID {score}")
            if run.samples:
                shown[at] = sample(run, *run.samples[-1])
        blocks.append(Text(f"{'; '.join(said)}.{fine_detail(*(g.runs[0] for g in pair))}"))
        blocks.append(Pictures(list(shown.values()), tuple(shown), "pair"))
    worse = all(mlp.fids and cnn.fids and mlp.mean > cnn.mean for cnn, mlp in pairs)
    return [*blocks, *[Text(say("linear layers"))] * worse]


def nearest_in_size(mlp: Group, cnns: list[Group]) -> Group | None:
    """The CNN of the same settings but for the widths whose number of parameters is nearest."""
    fixed = {k: v for k, v in mlp.settings.items() if k not in ("arch", *HIDDEN)}
    alike = [cnn for cnn in cnns if fixed.items() <= cnn.settings.items()]
    sizes = [sum(group.runs[0].parameters.values()) for group in (*alike, mlp)]
    distances = [abs(size - sizes[-1]) for size in sizes[:-1]]
    return alike[distances.index(min(distances))] if alike else None


def fine_detail(cnn: Run, mlp: Run) -> str:
    """Compare the grain of both runs' images with the training set's; "" if that is not there."""
    try:
        real = cnn.trainer.load_data("train").images[:LOOKED_AT]
    except UserError:
        return ""
    made = [torch.cat([*run.trainer.generate(LOOKED_AT, run.config.seed)]) for run in (cnn, mlp)]
    shares = dict(zip(("cnn", "mlp", "real"), map(grain, [*made, real]), strict=True))
    grainy = shares["mlp"] > 2 * max(shares["cnn"], shares["real"])
    return " " + say("grain", **shares, so=": the MLP's are grainy" * grainy)


def grain(images: Tensor) -> float:
    """Share of the power of images uint8 (N, C, S, S) above half the Nyquist frequency."""
    x = images.cpu().double()
    power = torch.fft.fft2(x - x.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    places = torch.fft.fftfreq(x.shape[-1]).abs()  # cycles a pixel, to 0.5
    return float(power[torch.maximum(places[:, None], places) >= 0.25].sum() / power.sum())
