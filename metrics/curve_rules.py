"""One window of a GAN's curves -> a verdict: the rules, in the order of their weight.

Reads `D(x)`, `D(G(z1))` (before D's update), `D(G(z2))` (the same fakes after it) and the two
losses of Goodfellow et al. 2014. At the Nash equilibrium D(x) = D(G(z)) = 1/2 (ibid., sec. 4.1):
discriminator_loss = 2 log 2, generator_loss = log 2. Each threshold says where it is from; the
runs behind them are in docs/doctor.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Values = dict[str, np.ndarray]  # tag -> (n,), all at the same steps

REAL, FAKE, UPDATED = "D(x)", "D(G(z1))", "D(G(z2))"
D_LOSS, G_LOSS = "discriminator_loss", "generator_loss"
TAGS = (D_LOSS, G_LOSS, REAL, FAKE, UPDATED)

D_WINS, G_WINS, D_LEADS = "D wins", "G wins", "D leads"
SATURATES, OVERSHOOTS, OSCILLATES = "saturates", "overshoots", "oscillates"
EQUILIBRIUM, BALANCED, NO_VERDICT = "near the equilibrium", "balanced", "no verdict"
HELD = "held by the penalty"

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
TOLD = 0.95  # share of points with D(x) above D(G): preset best 1.00, the blind D of docs 0.76
NEAR_RANGE = 0.5  # 5-95% range at the equilibrium: one that swings more only passes by
PEAK = 0.35  # autocorrelation at the period of a swing that is more than a tendency
PEAK_SIGMAS = (
    4  # white noise has 1/sqrt(n) at each lag (Bartlett 1946), and many lags are looked at
)
SWING = 0.25  # peak to peak, in probability; a mean over 64 images strays by 0.06 at most (1 sigma)
MIN_PERIOD = 10  # steps: every healthy run seesaws with a period of 2 to 3
MIN_PERIOD_POINTS = 4  # points a period; with fewer the sampling makes up the period


@dataclass(frozen=True)
class Numbers:
    """Of a curve in a window: median, 5% and 95% points, last third's median less the first's."""

    median: float
    low: float
    high: float
    trend: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.2g} to {self.high:.2g}, trend {self.trend:+.2g})"


@dataclass(frozen=True)
class Window:
    """Steps first..last (both looked at), what they show and why."""

    first: int
    last: int
    points: int
    verdict: str
    reason: str
    numbers: dict[str, Numbers]


def are_probabilities(values: Values) -> bool:
    """Whether D's values are in [0, 1] and the losses can be the BCE of them.

    -log is convex, so a mean of -log D is never below -log of the mean D (Jensen): a loss below
    that is on another scale, and then D(x) is a squashed score that nothing ties to 0 and 1.
    """
    bounds = []
    least = 1e-7  # fp32 rounds a D that is surer than that to 0 or 1, whose -log is infinite
    with np.errstate(divide="ignore", invalid="ignore"):
        if D_LOSS in values:
            real, fooled = np.maximum(values[REAL], least), np.minimum(values[FAKE], 1 - least)
            bounds.append((D_LOSS, -np.log(real) - np.log1p(-fooled)))
        if G_LOSS in values and UPDATED in values:
            bounds.append((G_LOSS, -np.log(np.maximum(values[UPDATED], least))))
    inside = all(((v >= 0) & (v <= 1)).all() for t, v in values.items() if t.startswith("D("))
    slack = 0.01  # of rounding, in the mean of a batch and in stored curves
    held = [np.mean(~(values[tag] < 0.99 * low - slack)) for tag, low in bounds]
    return inside and all(share >= 0.95 for share in held)


@dataclass(frozen=True)
class Signals:
    """What the rules look at, (n,) each; `updated` may be missing. penalty: on D, or "none"."""

    steps: np.ndarray
    real: np.ndarray
    fake: np.ndarray
    updated: np.ndarray | None
    values: Values
    penalty: str

    @property
    def gap(self) -> np.ndarray:
        return self.real - self.fake


def judge(steps: np.ndarray, values: Values, probable: bool, *, penalty: str = "none") -> Window:
    """The first rule that holds; with `probable` false only those that need no probabilities.

    penalty: that on D's gradient (--penalty), which the curves do not show.
    """
    signals = Signals(steps, values[REAL], values[FAKE], values.get(UPDATED), values, penalty)
    verdict = BALANCED if probable else NO_VERDICT
    reason = f"D(x) - D(G(z1)) is {np.median(signals.gap):.2f} in the median"
    for name, rule, needs_probabilities in RULES:
        found = rule(signals) if probable or not needs_probabilities else None
        if found:
            verdict, reason = name, found
            break
    numbers = {tag: numbers_of(v) for tag, v in values.items()}
    return Window(int(steps[0]), int(steps[-1]), len(steps), verdict, reason, numbers)


def numbers_of(values: np.ndarray) -> Numbers:
    third = len(values) // 3
    trend = np.median(values[-third:]) - np.median(values[:third])
    low, median, high = np.percentile(values, (5, 50, 95))
    return Numbers(float(median), float(low), float(high), float(trend))


def stands_still(s: Signals) -> str | None:
    ranges = [np.ptp(np.percentile(v, (5, 95))) for v in (s.real, s.fake)]
    if max(ranges) < STILL:
        return f"D(x) stands at {np.median(s.real):.3g} and D(G(z1)) at {np.median(s.fake):.3g}"


def saturates(s: Signals) -> str | None:
    at_end = [np.minimum(v, 1 - v) <= EXTREME for v in (s.real, s.fake)]
    share = (at_end[0] & at_end[1]).mean()
    if share < MOSTLY:
        return None
    real, fake = np.median(s.real), np.median(s.fake)
    who = "D has won outright" if real - fake > 0.5 else "D calls nearly everything the same"
    if fake - real > 0.5:
        who = "D has it the wrong way round"
    return f"{who}: D(x) and D(G(z1)) lie within {EXTREME} of 0 or 1 at {share:.0%} of the points"


def d_wins(s: Signals) -> str | None:
    share = (s.gap <= OVERTHROWN).mean()
    if is_sure(s) and share < RARELY:
        return f"D is sure and was overthrown (D(x) - D(G(z1)) < 0.5) at {share:.0%} of the points"


def g_wins(s: Signals) -> str | None:
    """Without probabilities only the order counts: see g_inverts."""
    share = (s.fake >= 0.5).mean()
    if np.median(s.fake) >= FOOLED and share >= MOSTLY:
        return f"D takes fakes for real: D(G(z1)) is above 0.5 at {share:.0%} of the points"


def g_inverts(s: Signals) -> str | None:
    share = (s.gap < 0).mean()
    if np.median(s.gap) <= INVERTED and share >= MOSTLY:
        return f"D judges fakes more real than real images at {share:.0%} of the points"


def overshoots(s: Signals) -> str | None:
    """z1 and z2 are the same fakes: what changed between them is one update of D, not the batch."""
    if s.updated is None:
        return None
    step, gap = np.median(np.abs(s.fake - s.updated)), np.median(s.gap)
    if step >= STEP and step >= STEP_SHARE * gap:
        return (
            f"one update moves D(G(z)) by {step:.2f} in the median, while D(x) - D(G(z1)) is"
            f" {gap:.2f}: a batch weighs about as much as all D has learned"
        )


def oscillates(s: Signals) -> str | None:
    for tag, curve in ((REAL, s.real), (FAKE, s.fake)):
        found = cycle(curve)
        if found is None or found.swing < SWING or found.points < MIN_PERIOD_POINTS:
            continue
        period = found.points * int(np.median(np.diff(s.steps)))
        if period >= MIN_PERIOD:
            return (
                f"{tag} swings by {found.swing:.2f} with a period of about {period} steps"
                f" (autocorrelation {found.correlation:.2f} there)"
            )


def d_leads(s: Signals) -> str | None:
    if is_sure(s):
        share = (s.gap <= OVERTHROWN).mean()
        return f"D is sure in the median, yet overthrown at {share:.0%} of the points"


def is_sure(s: Signals) -> bool:
    return bool(np.median(s.real) >= SURE and np.median(s.fake) <= 1 - SURE)


def rests(s: Signals) -> str | None:
    """Near D(x) = D(G) = 1/2 and staying there, with losses that agree (if they were logged)."""
    for curve in (s.real, s.fake):
        if abs(np.median(curve) - 0.5) > NEAR_HALF:
            return None
        if np.ptp(np.percentile(curve, (5, 95))) > NEAR_RANGE:
            return None
    for tag, nash in ((D_LOSS, 2 * math.log(2)), (G_LOSS, math.log(2))):
        if tag in s.values and abs(np.median(s.values[tag]) - nash) > NEAR_LOSS:
            return None
    return "D(x) and D(G(z1)) stay near 0.5: D guesses"


def held(s: Signals) -> str | None:
    """A D whose slope is penalised can't leave 0.5 by much: that it rests there is no blindness."""
    share = (s.gap > 0).mean()
    if s.penalty != "none" and rests(s) and share >= TOLD:
        return (
            f"D(x) and D(G(z1)) stay near 0.5, as the {s.penalty} penalty on D's slope wants, and"
            f" yet D(x) is the larger at {share:.0%} of the points: D tells the two apart"
        )


def balanced(s: Signals) -> str:
    share = (s.gap <= OVERTHROWN).mean()
    return (
        f"D(x) - D(G(z1)) is {np.median(s.gap):.2f} in the median and below 0.5 at {share:.0%} of"
        " the points: neither side has the game, which is away from the equilibrium"
    )


# in the order of their weight: (verdict, rule -> its reason or None, needs true probabilities)
RULES: tuple[tuple[str, Callable[[Signals], str | None], bool], ...] = (
    (SATURATES, saturates, True),
    (SATURATES, stands_still, False),
    (D_WINS, d_wins, True),
    (G_WINS, g_wins, True),
    (G_WINS, g_inverts, False),
    (OVERSHOOTS, overshoots, False),
    (OSCILLATES, oscillates, False),
    (D_LEADS, d_leads, True),
    (HELD, held, True),
    (EQUILIBRIUM, rests, True),
    (BALANCED, balanced, True),
)


@dataclass(frozen=True)
class Cycle:
    """points a period; peak to peak swing of the periodic part; autocorrelation at the period."""

    points: int
    swing: float
    correlation: float


def cycle(values: np.ndarray) -> Cycle | None:
    """The regular swing of a curve, if its autocorrelation has a dip and then a peak.

    Noise has neither, a drift or a random walk no peak. A sine of amplitude A in noise gives
    A^2 / 2 = r var, so that 2 sqrt(2 r var) is its swing with the minibatch noise left out.
    """
    n = len(values)
    times = np.arange(n)
    rest = values - np.polyval(np.polyfit(times, values, 1), times)
    lags = n // 3 + 1  # three periods at least
    covariance = np.array([np.mean(rest[: n - k] * rest[k:]) for k in range(lags)])
    if covariance[0] < 1e-12:
        return None
    r = covariance / covariance[0]
    level = max(PEAK, PEAK_SIGMAS / math.sqrt(n))
    dips = np.flatnonzero(r <= -level)
    peaks = [k for k in np.flatnonzero(r >= level) if len(dips) and k > dips[0]]
    if not peaks:
        return None
    first = [k for i, k in enumerate(peaks) if k - i == peaks[0]]  # its neighbours, no later peak
    period = max(first, key=lambda k: r[k])
    return Cycle(int(period), 2 * math.sqrt(2 * covariance[period]), float(r[period]))
