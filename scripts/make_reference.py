"""Make the shipped reference moments of real images again: MNIST, 32x32, protocol homework.

Takes main.py's flags --dataset, --image_size, --fid_protocol, --fid_precision and --data_dir too.
About 8 minutes on two cores: 3000 images for the moments and 3000 others for the floor.
"""

import sys

import _root  # noqa: F401
import torch

from inception import load_inception
from lib import command
from lib.flags import parse
from main import SYSTEMS, build
from metrics.reference import SHIPPED, compute_reference, file_name, save_reference


def main(argv: list[str] | None = None) -> int:
    return command.run(lambda: work(sys.argv[1:] if argv is None else argv))


def work(argv: list[str]) -> None:
    config = parse(argv, {"dcgan": SYSTEMS["dcgan"]}, __doc__)
    trainer = build(config, torch.device("cpu"))
    extractor = load_inception("cpu", trainer.config.fid_precision)
    path, reference = SHIPPED / file_name(trainer, extractor), compute_reference(trainer, extractor)
    save_reference(reference, path)
    print(f"{path}: floor {reference.floor:.3f} ± {reference.floor_error:.3f}")


if __name__ == "__main__":
    sys.exit(main())
