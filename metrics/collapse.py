"""Mode collapse: what a GAN leaves out, judged by the digits that a classifier sees in its images.

Counts with intervals, a chi-square test against the training set, the entropy of the labels, images
that are no digits, near-duplicates and copies of training images: pure functions, a formula each.
`judge` puts them in words. docs/collapse.md.
"""

import math
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

SURE = 0.9  # an image whose largest probability is below it counts as low in confidence
LEVEL = 0.01  # of the chi-square test
VERDICTS = ("not digits", "collapse", "uneven", "no sign of collapse")

# Bounds of the verdicts: conventions, far from what real images give.
NO_DIGITS = 0.5  # share of images that are off the digits: digits.Prediction.off_digits
MISSING = 0.1  # a digit is missing if it certainly has less than this part of its share,
DOMINANT = 3.0  # and dominant if it certainly has more than this multiple of it
FEW_DIGITS = 6.0  # 2^entropy, the number of equally frequent digits with the same entropy
DUPLICATES = 0.25  # share of images with a twin nearer than 99 % of real images have
NARROW = 0.5  # distance between images of a digit, relative to real ones


def wilson(counts: list[int], n: int, confidence: float = 0.95) -> tuple[list[float], list[float]]:
    """Bounds (low, high) of each share counts[d] / n, one digit at a time. Wilson 1927.

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n); at a count of 0 it is not empty.
    """
    tests = (stats.binomtest(int(count), n) for count in counts)
    intervals = [test.proportion_ci(confidence, method="wilson") for test in tests]
    return [float(i.low) for i in intervals], [float(i.high) for i in intervals]


def entropy_bits(counts: list[int] | Tensor) -> float:
    """-sum p log2 p of p = counts / n, in bits: 0 for one digit, log2 10 = 3.32 for all alike."""
    return float(stats.entropy(np.asarray(counts, float), base=2))


def chi_square(counts: list[int], shares: list[float]) -> tuple[float, float]:
    """(X, p): X = sum (count - n share)^2 / (n share), p = P(chi^2 of 9 degrees > X). Pearson 1900.

    Approximate if n share is below 5, that is with fewer than 56 images.
    """
    expected = np.asarray(shares, float) / np.sum(shares) * np.sum(counts)
    statistic, p_value = stats.chisquare(counts, expected)
    return float(statistic), float(p_value)


def power(n: int, shares: list[float]) -> float:
    """Probability that n images reveal a digit at half its share (the test at LEVEL; the rarest).

    Non-central chi-square with n sum (q - p)^2 / p, q the shares with that digit halved.
    """
    p = np.asarray(shares, float) / np.sum(shares)
    q = p.copy()
    q[p.argmin()] /= 2
    q /= q.sum()
    degrees, shift = len(p) - 1, n * np.sum((q - p) ** 2 / p)
    return float(stats.ncx2.sf(stats.chi2.isf(LEVEL, degrees), degrees, shift))


def nearest(images: Tensor, others: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Pixel distances (N, k), ascending, to the k nearest of `others`, and their indices (N, k).

    Euclidean over all pixels in [0, 1]; images uint8 (N, C, S, S), others (M, C, S, S).
    """
    a = flat(images)
    found = []
    for start in range(0, len(others), 5000):  # all of MNIST as floats would be 245 MB
        block = torch.cdist(a, flat(others[start : start + 5000]))
        distances, indices = block.topk(min(k, block.shape[1]), largest=False)
        found.append((distances, indices + start))
    distances, indices = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    chosen = indices.gather(1, distances.topk(k, largest=False).indices)
    exact = [(a - flat(others[column])).norm(dim=1) for column in chosen.T]  # cdist rounds near 0
    return torch.stack(exact, 1), chosen


def nearest_within(images: Tensor) -> Tensor:
    """Pixel distance (N,) of each image to the nearest other one of the same set."""
    x = flat(images)
    twins = torch.cdist(x, x).fill_diagonal_(math.inf).argmin(1)
    return (x - x[twins]).norm(dim=1)


def spread_by_digit(images: Tensor, labels: Tensor) -> Tensor:
    """Mean pixel distance (10,) between two images of a digit; NaN below two images."""
    spread = torch.full((10,), math.nan)
    for digit in range(10):
        x = flat(images[labels == digit])
        if len(x) > 1:
            spread[digit] = torch.pdist(x).mean()
    return spread


def flat(images: Tensor) -> Tensor:
    """uint8 (N, ...) -> float (N, D) in [0, 1]."""
    return images.flatten(1).float() / 255


def label_statistics(
    labels: Tensor, confidence: Tensor, off_digits: Tensor, *, measured: dict[str, Any]
) -> dict[str, Any]:
    """Statistics of the labels (N,), their probabilities, and the flags of images off the digits.

    measured: the classifier's record on real images, and the shares of the training set.
    """
    n, shares = len(labels), measured["shares"]
    counts = torch.bincount(labels.cpu(), minlength=10).tolist()
    kept = torch.bincount(labels[~off_digits].cpu(), minlength=10).tolist()
    low, high = wilson(counts, n)
    chi2, p_value = chi_square(counts, shares)
    found = {"n": n, "counts": counts, "low": low, "high": high, "expected_shares": list(shares)}
    found |= {"chi2": chi2, "p_value": p_value, "power": power(n, shares)}
    return found | {
        "entropy_bits": entropy_bits(counts),
        "low_confidence": float((confidence < SURE).float().mean()),
        "low_confidence_real": measured["low_confidence"],
        "p_value_on_digits": chi_square(kept, shares)[1] if sum(kept) else None,
        "off_digits": float(off_digits.float().mean()),
        "off_digits_real": measured["off_digits"],
    }


def diversity_statistics(
    images: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor
) -> dict[str, Any]:
    """Near-duplicates and spread of the sample, against as many real images.

    duplicates: the share of images with a twin nearer than 99 % of the real ones have. spread: the
    mean distance between two images of a digit over that of real ones, weighted as the sample is.
    Twins count because n images from m equally likely ones hold some once n > sqrt(m): the birthday
    test of Arora and Zhang 2017.
    """
    limit = nearest_within(real).quantile(0.01)
    own, wanted = spread_by_digit(images, labels), spread_by_digit(real, real_labels)
    weight = torch.bincount(labels.cpu(), minlength=10).float()
    known = ~(own.isnan() | wanted.isnan())
    ratio = (own * weight)[known].sum() / (wanted * weight)[known].sum()
    return {
        "duplicates": float((nearest_within(images) < limit).float().mean()),
        "duplicates_real": 0.01,
        "spread": float(ratio) if known.any() else None,
    }


def memory_statistics(distances: Tensor, typical: list[float]) -> dict[str, Any]:
    """Say how near images are to training images: a GAN that copies is nearer than a test image.

    distances (N,) to the nearest; typical: the 1 %, 50 % and 99 % quantile of those of real test
    images. copies: the share below their 1 % quantile (after Meehan et al. 2020).
    """
    quantiles = distances.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
    return {
        "neighbour_distances": quantiles,
        "neighbour_distances_real": list(typical),
        "copies": float((distances < typical[0]).float().mean()),
        "copies_real": 0.01,
    }


def judge(result: dict[str, Any]) -> tuple[str, str]:
    """(verdict, evidence): the first of VERDICTS that the numbers support, and why, in words.

    `result` is label_statistics, with or without diversity_statistics.
    """
    if result["off_digits"] > NO_DIGITS:
        return VERDICTS[0], (
            f"{percent(result['off_digits'])} of the images are unlike any digit (of real test"
            f" images {percent(result['off_digits_real'])} are), so their labels mean nothing."
        )
    if signs := signs_of_collapse(result):
        return VERDICTS[1], "; ".join(signs) + "."
    if result["p_value"] < LEVEL:
        return VERDICTS[2], uneven(result) + caution(result)
    return VERDICTS[3], (
        "Each digit is about as frequent as in the training set (chi-square"
        f" {result['chi2']:.1f} with 9 degrees of freedom, p {format_p(result['p_value'])}),"
        f" {result['entropy_bits']:.2f} bits of at most 3.32." + caution(result)
    )


def signs_of_collapse(result: dict[str, Any]) -> list[str]:
    """The signs that the generator makes few digits, or few images; empty if there are none."""
    signs, bits = signs_in_counts(result), result["entropy_bits"]
    seen = sum(count > 0 for count in result["counts"])
    # Miller 1955: the entropy of n is low by so many bits; or ten fair images lack digits
    bias = (seen - 1) / (2 * result["n"] * math.log(2))
    if not signs and 2**bits * 2**bias < FEW_DIGITS:
        words = f"as many as {2**bits:.1f} equally frequent digits"
        signs = [f"the labels have {bits:.2f} bits, {words}"]
    if result.get("duplicates", 0.0) > DUPLICATES:
        signs.append(
            f"{percent(result['duplicates'])} of the images have a twin nearer than"
            f" {percent(1 - result['duplicates_real'])} of as many real images have"
        )
    spread = result.get("spread")
    if spread is not None and spread < NARROW:
        signs.append(
            f"images of one digit differ from each other {percent(spread)} as much as real ones"
        )
    return signs


def signs_in_counts(result: dict[str, Any]) -> list[str]:
    """Digits that certainly dominate, and those that are certainly missing."""
    n, counts, signs, missing = result["n"], result["counts"], [], []
    rows = zip(result["low"], result["high"], result["expected_shares"], strict=True)
    for digit, (low, high, share) in enumerate(rows):
        if low > DOMINANT * share:
            signs.append(
                f"{counts[digit]} of {n} images show the digit {digit}, {low:.0%} to {high:.0%}"
                f" where {share:.1%} are to be expected"
            )
        elif high < MISSING * share:
            missing.append(digit)
    if missing:
        most, bound = (max(v[digit] for digit in missing) for v in (counts, result["high"]))
        signs.append(
            f"of {n} images {f'at most {most} each show' if most else 'none show'} the digits"
            f" {', '.join(map(str, missing))}: each less than {bound:.1%} of what G makes"
        )
    return signs


def uneven(result: dict[str, Any]) -> str:
    """The rarest and the commonest digit; and the p-value without the images that are no digits."""
    expected = result["n"] * np.asarray(result["expected_shares"])
    ratios = np.asarray(result["counts"]) / expected
    rarest, commonest = int(ratios.argmin()), int(ratios.argmax())
    words = (
        "No digit is certain to be missing, yet they are not as frequent as in the training set"
        f" (chi-square {result['chi2']:.1f} with 9 degrees of freedom,"
        f" p {format_p(result['p_value'])}): {commonest} comes {ratios[commonest]:.2f} times and"
        f" {rarest} {ratios[rarest]:.2f} times as often."
    )
    if result["off_digits"] > max(0.05, 2 * result["off_digits_real"]):
        words += (
            f" {percent(result['off_digits'])} of the images are unlike any digit and their labels"
            f" guesses; without them p {format_p(result['p_value_on_digits'])}."
        )
    return words


def caution(result: dict[str, Any]) -> str:
    """A warning if so few images would often hide a collapse; else nothing."""
    n = result["n"]
    if result["power"] >= 0.8:
        return ""
    return (
        f" {n} images show {'little' if n < 200 else 'only so much'}: a digit made half as often as"
        f" it should be would pass unnoticed in {percent(1 - result['power'])} of such draws, and"
        f" one missing in the sample may still be {percent(wilson([0], n)[1][0])} of what G makes."
    )


def format_p(p_value: float) -> str:
    return f"= {p_value:.2g}" if p_value >= 1e-4 else "< 0.0001"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.1 or 0.9 < share < 1 else f"{100 * share:.0f} %"
