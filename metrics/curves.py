"""Read from a GAN's curves who wins; `Watcher` does so in a running training. docs/doctor.md."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from lib.guards import Bar
from lib.runlog import RunLog
from metrics import curve_rules as rules
from metrics.curve_rules import FAKE, NASH, NO_VERDICT, REAL, Window, judge
from trainer import Observer, Trainer

Curves = dict[str, Sequence[tuple[int, float]]]  # tag -> points (step, value)

WINDOW = 1000  # steps: a fifth of a default run, 100 points of it
MIN_POINTS = 30  # the standard error of a median is then 1.25/sqrt(30) = 0.23 spreads
TOLD_APART = 0.2  # D(x) - D(G) that shows that D can learn; every default run has 0.7 by step 500


@dataclass(frozen=True)
class Diagnosis:
    """The verdict is that of the newest window; windows run from the oldest to the newest."""

    verdict: str
    sentences: list[str]
    windows: tuple[Window, ...] = ()

    @property
    def advice(self) -> str:
        return rules.ADVICE[self.verdict]


def diagnose(curves: Curves, *, window: int = WINDOW, penalty: str = "none") -> Diagnosis:
    """Judge curves as `read_scalars` gives them; other tags are passed over.

    window: in steps, and of 30 points at least. penalty: the run's --penalty.
    """
    present = {tag: dict(curves[tag]) for tag in NASH if curves.get(tag)}
    missing = [tag for tag in NASH if tag not in present]
    notes = [f"Missing: {', '.join(missing)}."] * bool(missing)
    if {REAL, FAKE} & set(missing):
        without = f"Without {REAL} and {FAKE} the losses alone do not say who wins."
        return Diagnosis(NO_VERDICT, [*notes, without])
    steps = np.array(sorted(set.intersection(*map(set, present.values()))))
    values = {tag: np.array([points[s] for s in steps]) for tag, points in present.items()}
    finite = np.all([np.isfinite(v) for v in values.values()], axis=0)
    if len(bad := steps[~finite]):
        notes.insert(0, f"{len(bad)} points are not finite, the first at step {bad[0]}.")
    if len(bad) and bad[-1] > steps[-1] - window:
        return Diagnosis(NO_VERDICT, [*notes, "Go back to the last checkpoint."])
    steps, values = steps[finite], {tag: v[finite] for tag, v in values.items()}
    if len(steps) < MIN_POINTS:
        few = f"{len(steps)} points: {MIN_POINTS} are wanted for a verdict."
        return Diagnosis(NO_VERDICT, [few, *notes, "Train longer, or lower --logging_steps."])
    windows = tuple(
        judge(steps[part], {tag: v[part] for tag, v in values.items()}, penalty=penalty)
        for part in parts(steps, window)
    )
    verdict, reason = conclusion(windows, steps)
    return Diagnosis(verdict, [reason, *described(windows), *notes], windows)


def parts(steps: np.ndarray, window: int) -> list[slice]:
    """Windows of so many steps counted from the end; a short rest joins the oldest one."""
    width = max(MIN_POINTS, window // int(np.median(np.diff(steps))))
    ends = list(range(len(steps), MIN_POINTS - 1, -width))
    return [slice(start, end) for start, end in zip([*ends[1:], 0], ends, strict=True)][::-1]


def conclusion(windows: tuple[Window, ...], steps: np.ndarray) -> tuple[str, str]:
    """(verdict, its sentence) of the newest window, in the light of those before it."""
    last, widest = windows[-1], max(np.median(w.values[REAL] - w.values[FAKE]) for w in windows)
    verdict, reason = last.verdict, last.reason
    from_the_start = steps[0] <= 2 * np.median(np.diff(steps))  # else D may have learned before
    if verdict == rules.EQUILIBRIUM and from_the_start and widest < TOLD_APART:
        verdict = rules.BLIND
        reason += f", and never told the two apart: D(x) - D(G(z1)) reached {widest:.2f}"
    return verdict, f"{verdict}: steps {last.first} to {last.last}: {reason}."


def described(windows: tuple[Window, ...]) -> list[str]:
    """The newest window in numbers beside the equilibrium's, and what those before it were."""
    values = windows[-1].values
    form = "{} {:.3g} ({:.2g} to {:.2g}) [{:.4g}]"
    numbers = [form.format(t, *np.percentile(v, (50, 5, 95)), NASH[t]) for t, v in values.items()]
    lines = [f"Medians (5 to 95%) [Nash equilibrium]: {'; '.join(numbers)}."]
    if not rules.are_probabilities(values):
        lines.append(
            "The losses are not the BCE of D(x) and D(G(z)), so that the equilibrium's values are"
            " others, and only the curves' order and steps were read."
        )
    for verdict, group in groupby(windows[:-1], key=lambda w: w.verdict):
        same = list(group)
        lines.append(f"Before: {verdict} in steps {same[0].first} to {same[-1].last}.")
    return lines


class Watcher:
    """Looks at the last WINDOW steps of a running training; it starts empty, after a resume too."""

    def __init__(self, logging_steps: int, *, window: int = WINDOW) -> None:
        self.size = max(MIN_POINTS, window // logging_steps)
        self.points: deque[tuple[int, dict[str, float]]] = deque(maxlen=self.size)
        self.found = self.said = ""  # the last window's verdict; the illness that stands on screen
        self.since_check = self.well = 0  # points since the last check; checks since an ill one

    def note(self, step: int, scalars: dict[str, float]) -> str | None:
        """Return a line when something has been wrong for a window, changes or is over; else None.

        It looks every quarter of a window. An illness counts when it is found twice running, and
        is over after four checks without any, so that a game on a border does not chatter.
        """
        self.points.append((step, scalars))
        self.since_check += 1
        if len(self.points) < self.size or self.since_check < self.size // 4:
            return None
        self.since_check = 0
        tags = [tag for tag in NASH if all(tag in scalars for _, scalars in self.points)]
        if not {REAL, FAKE} <= set(tags):
            return None
        values = {tag: np.array([s[tag] for _, s in self.points], float) for tag in tags}
        window = judge(np.array([step for step, _ in self.points]), values)
        before, self.found = self.found, window.verdict
        self.well = 0 if window.verdict in rules.ILL else self.well + 1
        where, over = f"step {window.last}: ", self.said
        if self.well >= 4 and over:
            self.said = ""
            return f"{where}no longer '{over}' but '{window.verdict}': {window.reason}."
        if self.well or window.verdict != before or window.verdict == over:
            return None
        self.said = window.verdict
        reason = f"{window.reason}, since step {window.first}. {rules.ADVICE[window.verdict]}"
        return f"{where}{window.verdict}: {reason}"


def watch_curves(trainer: Trainer, *, window: int = WINDOW) -> Observer:
    """Print a warning when the curves look bad for a while, and when they recover."""
    watcher = Watcher(trainer.config.logging_steps, window=window)

    def observe(log: RunLog, scalars: dict[str, float] | None) -> None:
        if scalars and (warning := watcher.note(trainer.step, scalars)):
            Bar.write(warning)

    return observe
