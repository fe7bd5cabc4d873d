"""Measure translations: like the target's images, faithful to the source, near the truth.

Each score stands beside that of the untranslated source, the translator that does nothing: to be
worth anything a translation must beat it. docs/cyclegan.md.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import dataset
from dataset import order, to_bytes, to_signed
from inception.kid import MOST
from lib.results import Result, mean_result
from metrics.features import BATCH_SIZE, batches_of, features, fid_and_kid, kept_features
from metrics.lpips import lpips_if_any
from metrics.protocols import most_of
from systems.cyclegan.config import DIRECTIONS
from systems.cyclegan.domains import DOMAINS, counterparts, domain_spec
from trainer import AT_ONCE


def domain_scores(trainer, extractor: nn.Module) -> list[Result]:
    """FID and KID of the translated and of the untranslated source against the target's images.

    Training images on both sides, at most 5000 of each domain: test sets are too small for it.
    """
    real = {domain: real_features(trainer, domain, extractor) for domain in DOMAINS}
    results = []
    for direction, (source, target) in DIRECTIONS.items():
        images, chosen = chosen_images(trainer, source)
        batches = (
            to_bytes(trainer.translated(to_signed(images[indices]), direction))
            for indices in chosen.to(images.device).split(AT_ONCE)
        )
        label = f"{source} to {target}: translations"
        made = features(batches, extractor, len(chosen), label).float().cpu()
        for x, mark, words in (
            (made, "", "translated"),
            (real[source], "_untranslated", "untranslated"),
        ):
            about = (
                f"{len(x):,} {words} training images of {source} against {len(real[target]):,} of"
                f" {target}"
            )
            results += fid_and_kid(real[target], x, direction + mark, about, extractor)
    return results


def chosen_images(trainer, domain: str) -> tuple[Tensor, Tensor]:
    """The domain's training images, and the positions of those that are compared."""
    images = trainer.load_domain(domain, "train").images
    return images, order(len(images), 0, 0)[: most_of(trainer.config, MOST)]


def real_features(trainer, domain: str, extractor: nn.Module) -> Tensor:
    """(n, d) on the CPU for the domain's training images, kept in <data_dir>/reference."""
    images, chosen = chosen_images(trainer, domain)
    config, spec = trainer.config, domain_spec(trainer.config, domain)
    data = f"{config.dataset}-{dataset.DATASETS[config.dataset]().identity(spec)}"
    few = f"-{len(chosen)}" * (config.fid_protocol == "smoke")
    size = f"{config.image_size}px{trainer.channels}{few}"
    label = f"real images of {domain}"
    compute = partial(features, batches_of(images, chosen), extractor, len(chosen), label)
    return kept_features(spec.data_dir, data, size, extractor, compute)


def reconstruction_scores(trainer) -> list[Result]:
    """Mean |x - there and back again (x)| over test images, of values in [-1, 1]."""
    results = []
    for (there, (source, target)), back in zip(DIRECTIONS.items(), ("b2a", "a2b"), strict=True):
        data, split = trainer.held_out(source)
        errors = []
        for images in data.images[: most_of(trainer.config, MOST)].split(BATCH_SIZE):
            x = to_signed(images).to(trainer.device)
            again = trainer.translated(trainer.translated(x, there), back)
            errors.append((x - again).abs().flatten(1).mean(1).cpu())
        values = torch.cat(errors)
        about = (
            f"{source} to {target} and back, {len(values):,} {split} images, of values in [-1, 1]"
        )
        results.append(mean_result(f"cycle_l1_{source.lower()}", values, about))
    return results


@torch.no_grad()
def paired_scores(trainer) -> list[Result]:
    """Translated test emoji against their true counterparts: mean L1 and LPIPS.

    LPIPS is left out, with the reason, if its package or weights are missing.
    """
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": mean_l1}
    notes: dict[str, Result] = {"l1": {}}
    if lpips := lpips_if_any(trainer.device):
        measures["lpips"] = lpips
        notes["lpips"] = {"backbone": "alex", "weights_sha256": lpips.digest}
    results = []
    for direction, (source, target) in DIRECTIONS.items():
        pairs = counterparts(trainer, direction)
        if len(pairs.source) < 2:
            print(f"no paired scores {direction}: {len(pairs.source)} pairs", file=sys.stderr)
            continue
        made = to_bytes(trainer.translated(to_signed(pairs.source), direction))
        for name, measure in measures.items():
            for images, mark, words in (
                (made, "", "translated"),
                (pairs.source, "_untranslated", "untranslated"),
            ):
                batches = zip(images.split(BATCH_SIZE), pairs.target.split(BATCH_SIZE), strict=True)
                values = torch.cat([measure(x, y).cpu() for x, y in batches])
                about = (
                    f"{len(values):,} {words} test emoji of {source} against their counterparts in"
                    f" {target}, {pairs.seen:,} of which were seen in training, unpaired"
                )
                result = mean_result(f"paired_{name}_{direction}{mark}", values, about)
                results.append(result | notes[name])
    return results


def mean_l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean |x - y| of each image (N,), of uint8 images as values in [-1, 1]."""
    return (to_signed(x) - to_signed(y)).abs().flatten(1).mean(1)
