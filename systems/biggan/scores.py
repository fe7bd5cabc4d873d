"""Scores by class: from Inception's features, and from what a classifier sees.

The only classifier here is that of digits, for MNIST. FID's Inception-v3 has no classifying layer:
`class_score` is the Inception score's formula with the ten digits. docs/scores.md.
"""

import math
import sys
from functools import partial

import torch
from torch import Tensor, nn

from dataset import identity, order
from fid import GROUPS
from lib.results import Result
from metrics.digits import as_input, load_digits
from metrics.features import batches_of, features, fid_of_features, kept_features, made_by
from metrics.prdc import manifold_scores
from metrics.prdc import results as prdc_results
from metrics.protocols import PROTOCOLS

N = 3000  # images judged by the classifier
SPLITS = 10  # of the Inception score
CLASSIFIED = ("mnist",)  # datasets
MOST_CLASSES = 20  # whose FIDs are taken one by one
LEAST_IMAGES = 2 * GROUPS  # of a class, on both sides
MOST_IMAGES = 100  # of a class: 2000 of ten go through the network, 7 minutes of a CPU core


def inception_scores(trainer, extractor: nn.Module) -> list[Result]:
    """FID class by class, and precision, recall, density, coverage, of the same images.

    n of each class, real and generated: its share of the protocol's, in bounds; as many as there
    are if it has fewer real images. The four alone if there are many classes. Each of several
    processes computes all.
    """
    if trainer.num_classes > MOST_CLASSES:
        return manifold_scores(trainer, extractor)
    every = trainer.training_data.labels.bincount(minlength=trainer.num_classes).cpu()
    wanted = PROTOCOLS[trainer.config.fid_protocol].n_fake or len(trainer.training_data)
    share = max(wanted // trainer.num_classes, LEAST_IMAGES)
    n = min(share, MOST_IMAGES, int(every.max()))
    total, seed = n * trainer.num_classes, trainer.config.seed
    real = real_features(trainer, n, extractor)
    fake = features(trainer.generate(total, seed), extractor, total, "classes: generated").cpu()
    y = trainer.labels_of_generated(total, seed)
    counts = every.clamp(max=n).tolist()
    of_class = [fake[y == k][:count] for k, count in enumerate(counts)]
    fids = class_fids(list(zip(real.split(counts), of_class, strict=True)), trainer.class_names)
    shared = {"protocol": trainer.config.fid_protocol, "split": "train"} | made_by(extractor)
    return [shared | result for result in fids] + prdc_results(real, torch.cat(of_class), extractor)


def real_features(trainer, n: int, extractor: nn.Module) -> Tensor:
    """(N, d): n training images of each class, or all it has, class after class; kept in a file."""
    config, data, chosen = trainer.config, trainer.training_data, []
    for k in range(trainer.num_classes):
        places = (data.labels == k).nonzero()[:, 0].cpu()
        chosen.append(places[order(len(places), 0, k)[:n]])
    places = torch.cat(chosen)
    name = f"{config.dataset}-{identity(config)}"
    size = f"{config.image_size}px-{trainer.num_classes}x{n}"
    batches, label = batches_of(data.images, places), "classes: real images"
    compute = partial(features, batches, extractor, len(places), label)
    return kept_features(config.data_dir, name, size, extractor, compute)


def class_fids(pairs: list[tuple[Tensor, Tensor]], names: list[str]) -> list[Result]:
    """FID of each class's generated images against real ones of it, and the mean of the FIDs.

    pairs: features (n, d) of each class, real and generated. So few images bias a FID upward: a
    class compares with itself at the same n, and the mean with the mean at the same n, but neither
    with the FID of all images. Classes of fewer than LEAST_IMAGES are left out, with a sentence.
    """
    scored = {k: pair for k, pair in enumerate(pairs) if len(pair[0]) >= LEAST_IMAGES}
    if few := [f"{names[k]} ({len(pairs[k][0])})" for k in range(len(pairs)) if k not in scored]:
        words = f"no fid_of_class of classes with fewer than {LEAST_IMAGES} training images"
        print(f"{words}: {', '.join(few)}", file=sys.stderr)
    if not scored:
        return []
    results = []
    for k, (real, fake) in scored.items():
        value, error = fid_of_features(real, fake)
        about = f"{names[k]}: {len(fake)} generated images, {len(real)} of the training split"
        results.append(
            {"metric": f"fid_of_class/{k}", "value": value, "error": error, "about": about}
            | {"n_real": len(real), "n_fake": len(fake)}
        )
    found = torch.tensor([[r["value"], r["error"]] for r in results], dtype=torch.float64)
    sizes = [len(real) for real, _ in scored.values()]
    n = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    whole = {
        "metric": "fid_of_classes",
        "value": found[:, 0].mean().item(),
        "error": found[:, 1].square().sum().sqrt().item() / len(found),  # independent errors
        "about": f"mean of {len(scored)} classes' FIDs, {n} images of each on both sides",
    }
    return [*results, whole | {k: sum(r[k] for r in results) for k in ("n_real", "n_fake")}]


def class_accuracy(asked: Tensor, seen: Tensor, names: list[str]) -> Result:
    """Share p of images seen as the class asked for; asked, seen (N,) are classes 0 .. K-1.

    confusion (K, K): a row asked, a column seen. The share of a class nobody asked for is NaN.
    """
    k = len(names)
    confusion = torch.bincount(asked * k + seen, minlength=k * k).view(k, k)
    p = float((asked == seen).double().mean())
    shares = confusion.diagonal().double() / confusion.sum(1)
    return {
        "metric": "class_accuracy",
        "value": p,
        "error": math.sqrt(p * (1 - p) / len(asked)),
        "by_class": dict(zip(names, shares.tolist(), strict=True)),
        "confusion": confusion.tolist(),
    }


def inception_score(probabilities: Tensor, *, splits: int = SPLITS) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) || p(y)) over images, from 1 to K. Salimans et al. 2016, sec. 4.

    probabilities (N, K), rows sum to 1. As there: the mean over splits, which must not be compared
    with a value of another n / splits (few images bias it downward); image i is in split
    i % splits. The error is the standard error of that mean, the paper's a standard deviation.
    """
    splits, entropy = min(splits, len(probabilities)), torch.special.entr
    parts = [probabilities[s::splits].double() for s in range(splits)]
    # the mean divergence is H(y) - mean H(y | x)
    divergences = [entropy(p.mean(0)).sum() - entropy(p).sum(1).mean() for p in parts]
    scores = torch.stack(divergences).exp()
    error = (scores.std() / splits**0.5).item() if splits > 1 else math.nan
    return scores.mean().item(), error


@torch.no_grad()
def digit_scores(trainer, *, n: int = N) -> list[Result]:
    """Compute `class_accuracy` and `class_score` of n generated digits.

    Empty if the images are not MNIST's: nothing here classifies others.
    """
    if trainer.config.dataset not in CLASSIFIED:
        return []
    classifier, seed = load_digits().to(trainer.device), trainer.config.seed
    parts = [
        classifier(as_input(images).to(trainer.device)).softmax(1).cpu()
        for images in trainer.generate(n, seed)
    ]
    probabilities = torch.cat(parts)[:n]
    asked = trainer.labels_of_generated(n, seed).cpu()
    accuracy = class_accuracy(asked, probabilities.argmax(1), trainer.class_names)
    score, score_error = inception_score(probabilities)
    about = f"{n:,} generated digits of which the classifier sees the one asked for"
    if (right := classifier.measured.get("accuracy")) is not None:
        about += f"; it is right on {right:.2%} of real test images"
    judge = {"n_fake": n, "classifier": "digits/digits.pt"}
    return [
        accuracy | {"about": about} | judge,
        {
            "metric": "class_score",
            "value": score,
            "error": score_error,
            "about": f"the Inception score's formula by the digit classifier, {n:,} generated"
            f" images in {min(SPLITS, n)} splits, at most {len(trainer.class_names)}",
            "splits": min(SPLITS, n),
        }
        | judge,
    ]
