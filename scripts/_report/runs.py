"""What a report knows of a run, read from its folder, and what follows from several of them."""

import dataclasses
import math
import re
import statistics
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from GAN import count_parameters
from lib.config import Config
from lib.runlog import ENCODERS, drawing_of, read_results, read_scalars
from scripts._saved_run import open_run
from trainer import Trainer

# name, precision, sha256 of the Inception weights, how z was drawn ("": from N(0, I))
Protocol = tuple[str, str, str, str]
HIDDEN = ("generator_hidden_dim", "discriminator_hidden_dim")


@dataclasses.dataclass
class Run:
    """A run as its folder has it; `fid` is its newest result by the report's protocol, if any.

    `kid` likewise, by the protocol (`all`) and precision by which most runs have one.
    """

    name: str  # the folder's; the report tells runs of one name apart
    trainer: Trainer
    curves: dict[str, list[tuple[int, float]]]
    results: list[dict[str, Any]]
    samples: list[tuple[int, Path]]  # (step, PNG), oldest first
    fid: dict[str, Any] | None = None
    kid: dict[str, Any] | None = None

    @property
    def own(self) -> dict[str, dict[str, Any]]:
        """Newest result by metric of those that only this run's system has, at its last step.

        Of images from a z drawn as that of `fid`, or of none that are generated.
        """
        drawn = drawing_of(self.fid or {})
        return {
            r["metric"]: r
            for r in self.results
            if r.get("step") == self.trainer.step
            and r.get("value") is not None
            and (drawing_of(r) == drawn or r.get("latent_density") == ENCODERS)
            and r.get("metric") not in (None, "fid", "kid")
        }

    @property
    def fixed(self) -> str:
        """What its sample grids are made from."""
        return "fixed noise" if hasattr(self.config, "latent_dim") else "fixed images"

    @property
    def config(self) -> Config:
        return self.trainer.config

    @property
    def parameters(self) -> dict[str, int]:
        return {name: count_parameters(net) for name, net in self.trainer.networks.items()}


def read_run(run_dir: Path, **changes: Any) -> Run:
    """Raises UserError, a sentence, if the folder is empty or no run, or if a file is torn."""
    trainer = open_run(run_dir, **changes)
    samples = [
        (int(match[1]), path)
        for path in sorted((run_dir / "samples").glob("samples-*.png"))
        if (match := re.fullmatch(r"samples-(\d+)", path.stem)) and int(match[1]) <= trainer.step
        if is_whole(path)
    ]
    name = trainer.config.run_name
    return Run(name, trainer, read_scalars(run_dir), read_results(run_dir), samples)


def is_whole(path: Path) -> bool:
    """Whether the picture can be read to its end; said where not, since the report lacks it."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except OSError as error:
        print(f"left out: {path} is torn or no picture ({error})", file=sys.stderr)
        return False
    return True


def choose_protocol(runs: list[Run], metric: str = "fid") -> Protocol | None:
    """The one that most runs were scored by at their last step; the default one among equals.

    Among those images of a z that is not of N(0, I) come last, and last of all `smoke`, which is
    no result.
    """
    counts = Counter(p for run in runs for p in {protocol_of(r) for r in scores(run, metric)})
    if not counts:
        return None
    return max(
        counts,
        key=lambda p: (
            p[0] != "smoke",
            counts[p],
            not p[3],
            p[:2] == ("homework", "fp32"),
            p,
        ),
    )


def scores(run: Run, metric: str) -> list[dict[str, Any]]:
    """The run's values of the weights it has now: those at its last step. A null is none."""
    wanted = (metric, run.trainer.step)
    return [
        r
        for r in run.results
        if (r.get("metric"), r.get("step")) == wanted and r.get("value") is not None
    ]


def protocol_of(result: dict[str, Any]) -> Protocol:
    weights = result.get("weights_sha256", "")
    return result["protocol"], result["precision"], weights, drawing_of(result)


def score_runs(runs: list[Run], protocol: Protocol | None) -> None:
    """Sets `fid` of each run to its newest result by this protocol, and `kid` likewise."""
    of_kid = choose_protocol(runs, "kid")
    for run in runs:
        run.fid = newest(run, "fid", protocol)
        run.kid = newest(run, "kid", of_kid)


def newest(run: Run, metric: str, protocol: Protocol | None) -> dict[str, Any] | None:
    matching = [r for r in scores(run, metric) if protocol_of(r) == protocol]
    return matching[-1] if matching else None


def best_run(runs: list[Run]) -> Run | None:
    scored = [run for run in runs if run.fid]
    return min(scored, key=lambda run: run.fid["value"]) if scored else None


@dataclasses.dataclass
class Group:
    """Runs that differ in nothing but the seed."""

    settings: dict[str, Any]  # the defining ones, without the seed
    runs: list[Run]

    def scores(self, metric: str) -> list[tuple[int, dict[str, Any]]]:
        """(seed, result) of the runs that have one."""
        results = [(run.config.seed, getattr(run, metric)) for run in self.runs]
        return [(seed, result) for seed, result in results if result]

    @property
    def values(self) -> list[float]:
        return [result["value"] for _, result in self.scores("fid")]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def group_runs(runs: list[Run]) -> list[Group]:
    groups: list[Group] = []
    for run in runs:
        settings = defining(run)
        for group in groups:
            if group.settings == settings:
                group.runs.append(run)
                break
        else:
            groups.append(Group(settings, [run]))
    return groups


def defining(run: Run) -> dict[str, Any]:
    """Settings that say what was trained, the step count with them, the seed left out."""
    fields = [f for f in dataclasses.fields(run.config) if f.metadata["role"] == "defines"]
    settings = {f.name: getattr(run.config, f.name) for f in fields if f.name != "seed"}
    return settings | {"steps": run.trainer.step}


def varying(groups: list[Group]) -> list[str]:
    """The settings in which the groups differ, in the order of the config."""
    names = dict.fromkeys(name for group in groups for name in group.settings)
    return [n for n in names if len({str(g.settings.get(n)) for g in groups}) > 1]


def label(group: Group, names: list[str]) -> str:
    """latent_dim 100, hidden_dim 16 -- the settings that tell this group from the others.

    The homework's settings where there are no others to tell it from.
    """
    names = names or [name for name in ("latent_dim", *HIDDEN) if name in group.settings]
    settings = with_hidden_dim({name: group.settings.get(name) for name in names})
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def with_hidden_dim(settings: dict[str, Any]) -> dict[str, Any]:
    """Both widths as one `hidden_dim` where they are equal, as the homework has it."""
    widths = {settings.get(name) for name in HIDDEN}
    if len(widths) > 1 or None in widths:
        return settings
    rest = {name: value for name, value in settings.items() if name not in HIDDEN}
    return rest | {"hidden_dim": widths.pop()}


@dataclasses.dataclass
class Effect:
    """One setting changed, all others equal: the two groups' FIDs and their difference."""

    factor: str
    before: Any
    after: Any
    others: str
    mean_before: float
    mean_after: float
    standard_error: float | None  # of the difference, from the spread over seeds

    @property
    def difference(self) -> float:
        return self.mean_after - self.mean_before


def effects(groups: list[Group], factors: tuple[str, ...]) -> list[Effect]:
    """Every pair of neighbouring values of a factor among otherwise equal groups with a FID."""
    joint = [(with_hidden_dim(g.settings), g) for g in groups if g.values]
    apart = [(g.settings, g) for _, g in joint]  # where one width alone changes
    spread = seed_spread(groups)
    every = dict.fromkeys(name for settings, _ in joint for name in settings)
    names = [n for n in every if len({str(s.get(n)) for s, _ in joint}) > 1]
    found = []
    for factor in factors:
        rests: dict[str, list[tuple[Any, Group]]] = {}
        for settings, group in apart if factor in HIDDEN else joint:
            if factor in settings:
                rest = {n: v for n, v in settings.items() if n != factor}
                rests.setdefault(str(sorted(rest.items())), []).append((settings, group))
        for same in rests.values():
            same.sort(key=lambda pair: str_or_number(pair[0][factor]))
            found += [effect(factor, a, b, names, spread) for a, b in pairwise(same)]
    return found


def str_or_number(value: Any) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (math.inf, str(value))


def effect(factor: str, a: Any, b: Any, names: list[str], spread: "Spread | None") -> Effect:
    (settings, before), (after_settings, after) = a, b
    counted = math.sqrt(1 / len(before.values) + 1 / len(after.values))
    others = ", ".join(f"{n} {settings[n]}" for n in names if n != factor and n in settings)
    return Effect(
        factor,
        settings[factor],
        after_settings[factor],
        others,
        before.mean,
        after.mean,
        spread and spread.sd * counted,
    )


@dataclasses.dataclass
class Spread:
    """Of the FID over seeds: a standard deviation, pooled from the groups that have several."""

    sd: float
    groups: int
    degrees: int  # of freedom

    def __str__(self) -> str:
        settings = f"{self.groups} setting{'s' * (self.groups > 1)} with several seeds"
        degrees = f"{self.degrees} degree{'s' * (self.degrees > 1)} of freedom"
        return f"{self.sd:.1f} (from {settings}, {degrees}; taken to be the same at the others)"


def seed_spread(groups: list[Group]) -> Spread | None:
    several = [g.values for g in groups if len(g.values) > 1]
    if not several:
        return None
    squares = sum((len(v) - 1) * statistics.variance(v) for v in several)
    degrees = sum(len(v) - 1 for v in several)
    return Spread(math.sqrt(squares / degrees), len(several), degrees)
