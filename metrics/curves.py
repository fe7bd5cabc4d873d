"""What the curves of a GAN say of its game: who wins, whether it swings, saturates or rests.

`diagnose` reads the curves of a run, window by window (game.py has the rules); `Watcher` looks
over a running training. Neither measures how good the images are. docs/doctor.md.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from tqdm import tqdm

from lib.runlog import RunLog
from metrics.curve_rules import (
    BALANCED,
    D_LEADS,
    D_LOSS,
    D_WINS,
    EQUILIBRIUM,
    FAKE,
    G_LOSS,
    G_WINS,
    HELD,
    MIN_PERIOD,
    MIN_PERIOD_POINTS,
    NO_VERDICT,
    OSCILLATES,
    OVERSHOOTS,
    REAL,
    SATURATES,
    TAGS,
    Values,
    Window,
    are_probabilities,
    judge,
)
from trainer import Observer, Trainer

Curves = dict[str, Sequence[tuple[int, float]]]  # tag -> points (step, value)

BLIND, TOO_SHORT, BROKEN = "D is blind", "too short", "broken"
ILL = (D_WINS, G_WINS, SATURATES, OVERSHOOTS, OSCILLATES)  # what a running training warns of

WINDOW = 1000  # steps: a fifth of a default run, 100 points of it
MIN_POINTS = 30  # the standard error of a median is then 1.25/sqrt(30) = 0.23 spreads
TOLD_APART = 0.2  # D(x) - D(G) that shows that D can learn; every default run has 0.7 by step 500

SMALLER_STEP = "Lower --learning_rate (2e-4 is the default) or raise --batch_size."
SAMPLES = "Judge by the samples and the FID."
ADVICE = {
    SATURATES: "Start anew with the two closer in strength: a smaller --discriminator_hidden_dim"
    " or a larger --generator_hidden_dim where D has won.",
    D_WINS: "Look at the samples first: by the log-D trick G still has a gradient. If they stand"
    " still, a smaller --discriminator_hidden_dim or a larger --generator_hidden_dim.",
    D_LEADS: "Common at large widths, and no illness by itself. " + SAMPLES,
    G_WINS: "A larger --discriminator_hidden_dim or a smaller --generator_hidden_dim.",
    OVERSHOOTS: SMALLER_STEP,
    OSCILLATES: SMALLER_STEP + " Or sample from an average of G's weights (--ema).",
    BLIND: "A larger --discriminator_hidden_dim, or a higher --learning_rate if it is tiny.",
    EQUILIBRIUM: "Look at the samples: a D that sees nothing guesses just as one that has met a"
    " perfect G.",
    HELD: "Nothing to mend in the curves: a penalty keeps what D says of real and fake images close"
    " together. " + SAMPLES,
    BALANCED: "Nothing to mend in the curves. " + SAMPLES,
    TOO_SHORT: "Train longer, or lower --logging_steps.",
    BROKEN: "Go back to the last checkpoint. " + SMALLER_STEP,
    NO_VERDICT: SAMPLES,
}


@dataclass(frozen=True)
class Diagnosis:
    """The verdict is that of the newest window; windows run from the oldest to the newest."""

    verdict: str
    sentences: tuple[str, ...]
    windows: tuple[Window, ...]
    advice: str


def diagnose(curves: Curves, *, window: int = WINDOW, penalty: str = "none") -> Diagnosis:
    """A verdict from curves as `runlog.read_scalars` gives them; other tags are passed over.

    `window` in steps; it grows where the curves are logged so rarely that it has < 30 points.
    penalty: the run's --penalty.
    """
    missing = [tag for tag in TAGS if not curves.get(tag)]
    notes = [f"Missing: {', '.join(missing)}."] if missing else []
    if REAL in missing or FAKE in missing:
        notes.append(f"Without {REAL} and {FAKE} the losses alone do not say who wins.")
        return Diagnosis(NO_VERDICT, tuple(notes), (), ADVICE[NO_VERDICT])
    steps, values = aligned(curves)
    finite = np.all([np.isfinite(v) for v in values.values()], axis=0)
    bad = steps[~finite]
    if len(bad):
        notes.append(f"{len(bad)} points are not finite, the first at step {bad[0]}.")
    if len(bad) and bad[-1] > steps[-1] - window:
        return Diagnosis(BROKEN, tuple(notes), (), ADVICE[BROKEN])
    steps, values = steps[finite], {tag: v[finite] for tag, v in values.items()}
    if len(steps) < MIN_POINTS:
        notes.insert(0, f"{len(steps)} points: {MIN_POINTS} are wanted for a verdict.")
        return Diagnosis(TOO_SHORT, tuple(notes), (), ADVICE[TOO_SHORT])
    probable = are_probabilities(values)
    windows = tuple(
        judge(steps[part], {tag: v[part] for tag, v in values.items()}, probable, penalty=penalty)
        for part in parts(steps, window)
    )
    verdict, reason = conclusion(windows, steps)
    advice = ADVICE[verdict]
    if verdict == BLIND and penalty != "none":
        advice += " Or a smaller --penalty_weight: too heavy a penalty blinds D."
    sentences = [reason, *described(windows, probable), *notes, *caveats(steps, values, probable)]
    return Diagnosis(verdict, tuple(sentences), windows, advice)


def aligned(curves: Curves) -> tuple[np.ndarray, Values]:
    """The steps that every present curve has, and the values there."""
    present = {tag: dict(curves[tag]) for tag in TAGS if curves.get(tag)}
    steps = sorted(set.intersection(*(set(points) for points in present.values())))
    values = {tag: np.array([p[s] for s in steps], float) for tag, p in present.items()}
    return np.array(steps, int), values


def parts(steps: np.ndarray, window: int) -> list[slice]:
    """Windows of so many steps counted from the end; a short rest joins the oldest one."""
    width = max(window, MIN_POINTS * int(np.median(np.diff(steps))))
    cuts = np.searchsorted(steps, np.arange(steps[-1], steps[0] - 1, -width), side="right")
    ends = [len(steps)]
    for cut in cuts[1:]:
        if cut >= MIN_POINTS and ends[-1] - cut >= MIN_POINTS:
            ends.append(int(cut))
    starts = [*ends[1:], 0]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)][::-1]


def conclusion(windows: tuple[Window, ...], steps: np.ndarray) -> tuple[str, str]:
    """(verdict, its sentence) of the newest window, in the light of those before it."""
    last = windows[-1]
    verdict, reason = last.verdict, last.reason
    widest = max(w.numbers[REAL].median - w.numbers[FAKE].median for w in windows)
    if verdict == EQUILIBRIUM and from_the_start(steps) and widest < TOLD_APART:
        verdict = BLIND
        reason += f", and never told the two apart: D(x) - D(G(z1)) reached {widest:.2f}"
    return (
        verdict,
        f"{verdict}: steps {last.first} to {last.last} ({last.points} points): {reason}.",
    )


def from_the_start(steps: np.ndarray) -> bool:
    """Whether the curves begin where training did: else D may have learned before."""
    return steps[0] <= 2 * np.median(np.diff(steps))


def described(windows: tuple[Window, ...], probable: bool) -> list[str]:
    """The newest window in numbers, and what the ones before it were.

    The equilibrium's are those of the cross-entropy, whose D is a probability.
    """
    numbers = windows[-1].numbers
    lines = [f"Medians (5 to 95%): {'; '.join(f'{tag} {numbers[tag]}' for tag in numbers)}."]
    if probable and (D_LOSS in numbers or G_LOSS in numbers):
        nash = f"{D_LOSS} {2 * math.log(2):.3f}, {G_LOSS} {math.log(2):.3f}"
        lines.append(f"At the Nash equilibrium: {REAL} = {FAKE} = 0.5, {nash}.")
    past = []
    for verdict, group in groupby(windows[:-1], key=lambda w: w.verdict):
        same = list(group)
        past.append(f"{verdict} in steps {same[0].first} to {same[-1].last}")
    return lines + ([f"Before: {', '.join(past)}."] if past else [])


def caveats(steps: np.ndarray, values: Values, probable: bool) -> list[str]:
    interval = int(np.median(np.diff(steps)))
    lines = []
    if not probable:
        lines.append(
            "The losses are not the BCE of D(x) and D(G(z)): these are scores in another scale,"
            " and only their order, their steps and their swings were read."
        )
    elif D_LOSS not in values and G_LOSS not in values:
        lines.append("Without losses it is taken on trust that D(x) and D(G(z)) are probabilities.")
    shortest = max(MIN_PERIOD, MIN_PERIOD_POINTS * interval)
    return [*lines, f"Swings of a period below {shortest} steps were not looked for."]


class Watcher:
    """Looks at the last WINDOW steps of a running training; it knows no weights and no stream.

    It starts empty, after a resume too: its first word comes when a whole window was seen again.
    """

    def __init__(self, interval: int, *, window: int = WINDOW) -> None:
        """`interval`: steps between two points."""
        self.size = max(MIN_POINTS, window // interval)
        self.points: deque[tuple[int, dict[str, float]]] = deque(maxlen=self.size)
        self.since_check = 0
        self.found = self.said = ""  # the last window's verdict; the illness that stands on screen
        self.well = 0  # checks since the last ill one

    def note(self, step: int, scalars: dict[str, float]) -> str | None:
        """A line when something has been wrong for a window, changes or is over; else None.

        It looks every quarter of a window. An illness counts when it is found twice running, and
        is over after four checks without any, so that a game on a border does not chatter.
        """
        self.points.append((step, scalars))
        self.since_check += 1
        if len(self.points) < self.size or self.since_check < self.size // 4:
            return None
        self.since_check = 0
        window = self.judged()
        return self.line(window) if window else None

    def line(self, window: Window) -> str | None:
        """What is new in this window, if anything is."""
        before, self.found = self.found, window.verdict
        self.well = 0 if window.verdict in ILL else self.well + 1
        where, over = f"step {window.last}: ", self.said
        if self.well >= 4 and over:
            self.said = ""
            return f"{where}no longer '{over}' but '{window.verdict}': {window.reason}."
        if self.well or window.verdict != before or window.verdict == over:
            return None
        self.said = window.verdict
        return (
            f"{where}{window.verdict}: {window.reason}, since step {window.first}."
            f" {ADVICE[window.verdict]}"
        )

    def judged(self) -> Window | None:
        """The window's verdict; None where D(x) or D(G(z1)) is not logged."""
        tags = [tag for tag in TAGS if all(tag in scalars for _, scalars in self.points)]
        if REAL not in tags or FAKE not in tags:
            return None
        steps = np.array([step for step, _ in self.points])
        values = {tag: np.array([s[tag] for _, s in self.points], float) for tag in tags}
        return judge(steps, values, are_probabilities(values))


def watch_curves(trainer: Trainer) -> Observer:
    """Print a warning when the curves look bad for a while, and when they recover."""
    watcher = Watcher(trainer.config.logging_steps)

    def observe(log: RunLog, scalars: dict[str, float] | None) -> None:
        if scalars and (warning := watcher.note(trainer.step, scalars)):
            tqdm.write(warning)

    return observe
