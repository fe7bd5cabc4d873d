"""One window of a GAN's curves -> a verdict: the rules, the weightiest first.

Reads `D(x)`, `D(G(z1))` (before D's update), `D(G(z2))` (the same fakes after it) and the two
losses of Goodfellow et al. 2014. At the Nash equilibrium D(x) = D(G(z)) = 1/2 (ibid., sec. 4.1).
docs/doctor.md has the runs behind the thresholds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Values = dict[str, np.ndarray]  # tag -> (n,), all at the same steps

D_LOSS, G_LOSS = "discriminator_loss", "generator_loss"
REAL, FAKE, UPDATED = "D(x)", "D(G(z1))", "D(G(z2))"
NASH = {D_LOSS: 2 * math.log(2), G_LOSS: math.log(2), REAL: 0.5, FAKE: 0.5, UPDATED: 0.5}

D_WINS, G_WINS, BLIND, OVERSHOOTS = ILL = "D wins", "G wins", "D is blind", "overshoots"
EQUILIBRIUM, BALANCED, NO_VERDICT = "near the equilibrium", "balanced", "no verdict"
ADVICE = {
    D_WINS: "Look at the samples: by the log-D trick G still has a gradient. If they stand still,"
    " start again with a smaller --discriminator_hidden_dim or a larger --generator_hidden_dim.",
    G_WINS: "A larger --discriminator_hidden_dim or a smaller --generator_hidden_dim.",
    BLIND: "A larger --discriminator_hidden_dim; a smaller --penalty_weight if there is one.",
    OVERSHOOTS: "Lower --learning_rate (2e-4 is the default) or raise --batch_size.",
    EQUILIBRIUM: "Look at the samples: a D that has learned nothing guesses too.",
    BALANCED: "Nothing to mend in the curves. Judge by the samples and the FID.",
    NO_VERDICT: "Judge by the samples and the FID.",
}

SURE = 0.9  # D(x) above and D(G) below 1 - SURE: a discriminator_loss below 0.21
OVERTHROWN = 0.5  # D(x) - D(G) below: no longer sure. A tenth or more of the points of healthy runs
RARELY = 0.05  # share of points: a far too strong D 0, the wide run 0.08, default runs from 0.10
EXTREME = 0.01  # of 0 or 1: D's gradient at its logit, 1 - D(x) or D(G), is a hundredth of its most
MOSTLY = 0.8  # share of points
STILL = 1e-3  # 5-95% range: minibatches differ, so their means stand still only if D ignores them
FOOLED = 0.65  # D(G): more fakes pass than not, by more than the equilibrium's tolerance
INVERTED = -0.05  # D(x) - D(G): fakes are judged the more real ones
STEP = 0.1  # |D(G(z1)) - D(G(z2))|; below it the two curves lie on each other in a plot
STEP_SHARE = 0.6  # of D(x) - D(G): lr 0.05 gave 1.3 to 1.8, 0.01 0.7, CNNs at 2e-4 below 0.5
NEAR_HALF = 0.1  # of 1/2, for the probabilities; unsure D's at a random start lie within
NEAR_LOSS = 0.2  # nats from 2 log 2 and log 2: what D(x) = 0.55, D(G) = 0.45 gives
NEAR_RANGE = 0.5  # 5-95% range at the equilibrium: one that swings more only passes by
TOLD = 0.95  # share of points with D(x) above D(G): preset best 1.00, the blind D of docs 0.76


@dataclass(frozen=True)
class Window:
    """Steps first..last (both looked at), what they show and why."""

    first: int
    last: int
    verdict: str
    reason: str
    values: Values


def judge(steps: np.ndarray, values: Values, *, penalty: str = "none") -> Window:
    """Apply the first rule that holds. penalty: the run's --penalty, which curves do not show."""
    verdict, reason = next(findings(values, penalty))
    return Window(int(steps[0]), int(steps[-1]), verdict, reason, values)


def findings(values: Values, penalty: str) -> Iterator[tuple[str, str]]:
    """Yield verdict and reason of every rule that holds; the last one always does."""
    real, fake, gap = values[REAL], values[FAKE], values[REAL] - values[FAKE]
    middle, probable = np.median(gap), are_probabilities(values)
    at_ends = (np.minimum(real, 1 - real) <= EXTREME) & (np.minimum(fake, 1 - fake) <= EXTREME)
    if probable and (share := at_ends.mean()) >= MOSTLY:
        verdict, words = BLIND, "D calls nearly everything the same"
        if abs(middle) > 0.5:
            won, lost = (D_WINS, "D has won outright"), (G_WINS, "D has it the wrong way round")
            verdict, words = won if middle > 0 else lost
        where = f"lie within {EXTREME} of 0 or 1 at {share:.0%} of the points"
        yield verdict, f"{words}: D(x) and D(G(z1)) {where}"
    if max(spread(real), spread(fake)) < STILL:
        yield BLIND, f"D(x) and D(G(z1)) stand still at {real[-1]:.3g} and {fake[-1]:.3g}"
    sure = np.median(real) >= SURE and np.median(fake) <= 1 - SURE
    share = (gap <= OVERTHROWN).mean()
    dips = f"D(x) - D(G(z1)) falls below 0.5 at {share:.0%} of the points"
    if probable and sure and share < RARELY:
        yield D_WINS, f"D is sure: {dips}"
    if probable and np.median(fake) >= FOOLED and (share := (fake >= 0.5).mean()) >= MOSTLY:
        yield G_WINS, f"D takes fakes for real: D(G(z1)) is above 0.5 at {share:.0%} of the points"
    if middle <= INVERTED and (share := (gap < 0).mean()) >= MOSTLY:
        yield G_WINS, f"D judges fakes more real than real images at {share:.0%} of the points"
    step = np.median(np.abs(fake - values.get(UPDATED, fake)))  # one update of D, on the same fakes
    if step >= STEP and step >= STEP_SHARE * middle:
        moved = f"one update moves D(G(z)) by {step:.2f} in the median, while D(x) - D(G(z1)) is"
        yield OVERSHOOTS, f"{moved} {middle:.2f}: a batch weighs as much as all D has learned"
    if probable and rests(values):
        near, told = "D(x) and D(G(z1)) stay near 0.5", (gap > 0).mean()
        if penalty != "none" and told >= TOLD:  # its slope is kept small, whatever D knows
            near += f" as the {penalty} penalty wants, and yet D(x) is the larger at {told:.0%}"
            yield BALANCED, f"{near} of the points: D tells the two apart"
        yield EQUILIBRIUM, f"{near}: D guesses"
    if probable:
        lead = "D leads: it is sure in the median, yet" if sure else "neither side wins:"
        yield BALANCED, f"{lead} {dips}; at the equilibrium it is 0"
    yield NO_VERDICT, f"D(x) - D(G(z1)) is {middle:.2f} in the median"


def spread(curve: np.ndarray) -> float:
    """The range between the 5 and the 95% point."""
    return float(np.ptp(np.percentile(curve, (5, 95))))


def rests(values: Values) -> bool:
    """True if the curves stay near D(x) = D(G) = 1/2, with losses that agree (if logged)."""
    near = {REAL: NEAR_HALF, FAKE: NEAR_HALF, D_LOSS: NEAR_LOSS, G_LOSS: NEAR_LOSS}
    off = {tag: abs(np.median(values[tag]) - NASH[tag]) for tag in near if tag in values}
    still = max(spread(values[REAL]), spread(values[FAKE])) <= NEAR_RANGE
    return still and all(off[tag] <= near[tag] for tag in off)


def are_probabilities(values: Values) -> bool:
    """True if D's values are in [0, 1] and the losses can be the BCE of them.

    -log is convex, so a mean of -log D is never below -log of the mean D (Jensen): a loss below
    that is on another scale, and then D(x) is a squashed score that nothing ties to 0 and 1.
    """
    if not all(((v >= 0) & (v <= 1)).all() for t, v in values.items() if t.startswith("D(")):
        return False
    real, fake, updated = (values.get(tag, np.ones(1)) for tag in (REAL, FAKE, UPDATED))
    least = 1e-7  # fp32 rounds a D that is surer than that to 0 or 1, whose -log is infinite
    low = {D_LOSS: -np.log(np.maximum(real, least)) - np.log1p(-np.minimum(fake, 1 - least))}
    low[G_LOSS] = -np.log(np.maximum(updated, least))
    broken = {tag: values[tag] < 0.99 * low[tag] - 0.01 for tag in low if tag in values}
    return all(np.mean(points) <= 0.05 for points in broken.values())  # 0.01: of rounding
