"""Feature parity with pytorch-fid's own network, given the same weights.

    pip install pytorch-fid
    python scripts/compare_inception.py --images 32

Prints the largest absolute difference of the 2048 features over uniform noise and over sparse grey
strokes, which like MNIST's are mostly black, and exits with status 1 if it reaches 1e-4.
"""

import argparse
import sys
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from inception import WEIGHTS_DIGEST, InceptionV3, load_inception
from inception.weights import State, find_weights
from lib.command import command, flag
from lib.errors import need

LIMIT = 1e-4


@command(
    flag("--images", type=int, default=32, bounds=(1, 100_000), help="images of each kind"),
    flag("--weights", help="state dict to use instead of the published weights"),
    flag("--device", default="cpu", choices=("cpu", "cuda", "mps"), help="cpu, cuda or mps"),
)
def main(args: argparse.Namespace) -> int:
    theirs = pytorch_fid_network(find_weights(args.weights)).to(args.device)
    ours = load_inception(args.device, weights=args.weights)
    known = "the published values" if ours.digest == WEIGHTS_DIGEST else "not the published values"
    print(f"weights {ours.digest} ({known})")
    sets = image_sets(args.images)
    worst = max(compare(name, images, ours, theirs) for name, images in sets.items())
    print(f"largest difference {worst:.2e}, wanted below {LIMIT:g}")
    return 0 if worst < LIMIT else 1


def pytorch_fid_network(state: State) -> nn.Module:
    """pytorch_fid.inception.InceptionV3 up to pool3, its weights strictly from state."""
    need("pytorch-fid", "compare_inception.py")
    from pytorch_fid import inception

    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    weights = state | classifier  # which its constructor would download
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=weights):
        return inception.InceptionV3([3]).eval()


def image_sets(n: int) -> dict[str, Tensor]:
    """uint8 (n, 3 or 1, 32, 32), the same every time."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    grey = torch.randint(0, 256, (n, 1, 32, 32), generator=generator, dtype=torch.uint8)
    strokes = grey * (torch.rand(n, 1, 32, 32, generator=generator) < 0.2)
    return {"noise, colour": noise, "strokes, grey": strokes}


@torch.no_grad()
def compare(name: str, images: Tensor, ours: InceptionV3, theirs: nn.Module) -> float:
    """Largest absolute difference of the features over all images, in batches of 8."""
    device = ours.Conv2d_1a_3x3.weight.device
    worst = 0.0
    for batch in images.split(8):
        wanted = theirs((batch.float() / 255).expand(-1, 3, -1, -1).to(device))[0].flatten(1)
        worst = max(worst, (ours(batch) - wanted).abs().max().item())
    print(f"{name:14s} {len(images)} images: max abs difference {worst:.2e}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
