"""A system's own scores where each image has a class: FID class by class.

SCORES is what BigGAN.evaluate runs, in this order.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from class_conditional.trainer import AT_ONCE, ClassConditionalTrainer
from dataset import order
from distributed import shard
from fid import GROUPS, PROTOCOLS, fid_with_error
from moments import features_to_groups

Result = dict[str, Any]

MOST_CLASSES = 20  # whose FIDs are taken one by one
LEAST_IMAGES = 2 * GROUPS  # of a class


def class_fids(trainer: ClassConditionalTrainer, extractor: nn.Module) -> list[Result]:
    """FID of each class's images against its real ones of training, and the mean of the FIDs.

    Of each class as many images on both sides as one class has in the protocol's generated ones.
    So few bias a FID upward: a class compares with the same class at the same n, and the mean with
    the same mean, but neither with the FID of all images. Nothing where there are many classes.
    """
    if trainer.num_classes > MOST_CLASSES:
        return []
    n = images_a_class(trainer)
    results = [class_fid(trainer, extractor, k, n) for k in range(trainer.num_classes)]
    values = torch.tensor([(r["value"], r["error"]) for r in results], dtype=torch.float64)
    mean, error = values[:, 0].mean(), values[:, 1].square().sum().sqrt() / len(values)
    about = f"mean of {len(values)} classes, {n} images of each on both sides"
    return [*results, results[0] | measured("fid_of_classes", float(mean), float(error), about)]


def class_fid(trainer: ClassConditionalTrainer, extractor: nn.Module, k: int, n: int) -> Result:
    """FID of n images of class k against n real ones of it."""
    name, seed = trainer.class_names[k], trainer.config.seed
    data = trainer.training_data
    chosen = (data.labels == k).nonzero()[:, 0].cpu()
    chosen = chosen[order(len(chosen), 0, k)[:n]].to(data.images.device)
    real = groups_of((data.images[part] for part in chosen.split(AT_ONCE)), extractor, n, name)
    fake = groups_of(trainer.generate_of(k, n, seed), extractor, n, f"{name}, generated")
    value, error = fid_with_error(reduce(add, real), fake)
    about = f"{name}: {n} generated images against {n} real ones of the training split"
    shared = {
        "n_real": n,
        "n_fake": n,
        "extractor": extractor.name,
        "precision": extractor.precision,
        "weights_sha256": extractor.digest,
    }
    return shared | measured(f"fid_of_class/{k}", value, error, about)


def measured(metric: str, value: float, error: float, about: str) -> Result:
    return {"metric": metric, "value": value, "error": error, "about": about}


def groups_of(batches: Iterator[Tensor], extractor: nn.Module, n: int, label: str) -> list:
    """The moments of n images in groups; of several processes each looks at its share."""
    shares = (shard(batch, i * AT_ONCE) for i, batch in enumerate(batches))
    return features_to_groups(shares, extractor, n, groups=GROUPS, label=f"FID of a class: {label}")


def images_a_class(trainer: ClassConditionalTrainer) -> int:
    """A class's share of the protocol's generated images, if the smallest class has as many."""
    labels = trainer.training_data.labels
    wanted = PROTOCOLS[trainer.config.fid_protocol].n_fake or len(labels)
    smallest = int(labels.bincount(minlength=trainer.num_classes).min())
    return min(max(wanted // trainer.num_classes, LEAST_IMAGES), smallest)


SCORES: tuple[Callable[[ClassConditionalTrainer, nn.Module], list[Result]], ...] = (class_fids,)
