"""Make the shipped reference moments of real images again.

    python scripts/make_reference.py                  what is shipped: MNIST, 32x32, homework
    python scripts/make_reference.py --check          compare with what is shipped, write nothing

Takes main.py's flags --dataset, --image_size, --fid_protocol, --fid_precision and --data_dir too.
About 8 minutes on two cores: 3000 images for the moments and 3000 others for the floor.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from fid import frechet_distance
from inception import load_inception
from lib import command
from lib.flags import parse
from main import SYSTEMS, build
from metrics.reference import SHIPPED, compute_reference, file_name, load_reference, save_reference

TOLERANCE = 1e-3  # FID between the remade moments and the shipped ones, which are float32


def main(argv: list[str] | None = None) -> int:
    return command.run(lambda: work(sys.argv[1:] if argv is None else argv))


def work(argv: list[str]) -> int:
    flags = [flag for flag in argv if flag != "--check"]
    config = parse(flags, {"dcgan": SYSTEMS["dcgan"]}, __doc__)
    trainer = build(config, torch.device("cpu"))
    extractor = load_inception("cpu", trainer.config.fid_precision)
    path = SHIPPED / file_name(trainer, extractor)
    reference = compute_reference(trainer, extractor)
    print(f"floor {reference.floor:.3f} ± {reference.floor_error:.3f}")
    if "--check" in argv:
        return compare(reference, load_reference(path))
    save_reference(reference, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def compare(made, shipped) -> int:
    a, b = made.moments, shipped.moments
    distance = frechet_distance(a.mean, a.cov, b.mean, b.cov)
    print(f"FID between remade and shipped moments: {distance:.2e}, wanted below {TOLERANCE:g}")
    print(f"floor: remade {made.floor:.6f}, shipped {shipped.floor:.6f}")
    return 0 if abs(distance) < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
