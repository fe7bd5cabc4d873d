"""Scores where each image has a class: of Inception's features, and of the digits' classifier.

SCORES is what BigGAN.evaluate runs, in this order.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from class_conditional.trainer import ClassConditionalTrainer
from class_scores import digit_scores
from dataset import identity, order
from feature_files import kept_features
from fid import GROUPS, PROTOCOLS, fid_with_error
from moments import Moments
from prdc import chosen_images, features, manifold_scores
from prdc import results as prdc_results
from runlog import Result

MOST_CLASSES = 20  # whose FIDs are taken one by one
LEAST_IMAGES = 2 * GROUPS  # of a class, on both sides
MOST_IMAGES = 100  # of a class: 2000 of ten go through the network, 7 minutes of a CPU core


def inception_scores(trainer: ClassConditionalTrainer, extractor: nn.Module) -> list[Result]:
    """FID class by class, and precision, recall, density, coverage, of the same images.

    Where there are many classes the latter alone. Of several processes each computes all.
    """
    if trainer.num_classes > MOST_CLASSES:
        return manifold_scores(trainer, extractor)
    n = images_a_class(trainer)
    total, seed = n * trainer.num_classes, trainer.config.seed
    real = kept_features(
        features_path(trainer, n, extractor), lambda: real_features(trainer, n, extractor)
    )
    fake = features(trainer.generate(total, seed), extractor, total, "classes: generated").cpu()
    y = trainer.labels_of_generated(total, seed)
    pairs = [(real[k * n : (k + 1) * n], fake[y == k]) for k in range(trainer.num_classes)]
    fids = class_fids(pairs, trainer.class_names)
    shared = {
        "extractor": extractor.name,
        "precision": extractor.precision,
        "weights_sha256": extractor.digest,
    }
    return [shared | result for result in fids] + prdc_results(real, fake, extractor)


def real_features(trainer: ClassConditionalTrainer, n: int, extractor: nn.Module) -> Tensor:
    """(K n, d): of n training images of each class, class after class."""
    data = trainer.training_data
    chosen = []
    for k in range(trainer.num_classes):
        places = (data.labels == k).nonzero()[:, 0].cpu()
        chosen.append(places[order(len(places), 0, k)[:n]])
    images = chosen_images(data, torch.cat(chosen))
    return features(images, extractor, n * len(chosen), "classes: real images")


def features_path(trainer: ClassConditionalTrainer, n: int, extractor: nn.Module) -> Path:
    """Named by all that the real features depend on."""
    config = trainer.config
    words = (
        f"features-{config.dataset}-{identity(config)}",
        f"{config.image_size}px-{trainer.num_classes}x{n}",
        extractor.precision,
        f"{extractor.digest[:12]}.npy",
    )
    return Path(config.data_dir) / "reference" / "-".join(words)


def class_fids(pairs: list[tuple[Tensor, Tensor]], names: list[str]) -> list[Result]:
    """FID of each class's generated images against real ones of it, and the mean of the FIDs.

    pairs: features (n, d) of each class, real and generated. So few images bias a FID upward: a
    class compares with itself at the same n, and the mean with the mean at the same n, but neither
    with the FID of all images.
    """
    results, values = [], []
    for k, (real, fake) in enumerate(pairs):
        groups = [Moments.of(fake[g::GROUPS]) for g in range(GROUPS)]
        value, error = fid_with_error(Moments.of(real), groups)
        values.append((value, error))
        about = f"{names[k]}: {len(fake)} generated images, {len(real)} of the training split"
        results.append(
            {"metric": f"fid_of_class/{k}", "value": value, "error": error, "about": about}
            | {"n_real": len(real), "n_fake": len(fake)}
        )
    mean, error = mean_of(torch.tensor(values, dtype=torch.float64))
    about = f"mean of {len(pairs)} classes' FIDs, {len(pairs[0][1])} images of each on both sides"
    return [*results, {"metric": "fid_of_classes", "value": mean, "error": error, "about": about}]


def mean_of(values: Tensor) -> tuple[float, float]:
    """Of (K, 2) values and independent errors."""
    return values[:, 0].mean().item(), values[:, 1].square().sum().sqrt().item() / len(values)


def images_a_class(trainer: ClassConditionalTrainer) -> int:
    """A class's share of the protocol's generated images, within bounds and what there is."""
    labels = trainer.training_data.labels
    wanted = PROTOCOLS[trainer.config.fid_protocol].n_fake or len(labels)
    smallest = int(labels.bincount(minlength=trainer.num_classes).min())
    return min(max(wanted // trainer.num_classes, LEAST_IMAGES), MOST_IMAGES, smallest)


def class_scores(trainer: ClassConditionalTrainer, extractor: nn.Module) -> list[Result]:
    """Whether images show the class asked for: of digits. The extractor has no part in it."""
    return digit_scores(trainer)


SCORES: tuple[Callable[[ClassConditionalTrainer, nn.Module], list[Result]], ...] = (
    class_scores,
    inception_scores,
)
