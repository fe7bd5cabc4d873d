"""Compare several runs: groups that differ in the seed alone, effects of a setting."""

import math
import statistics
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from scripts._report.runs import Run

HIDDEN = ("generator_hidden_dim", "discriminator_hidden_dim")
SHORT = {"latent_dim": "latent", "hidden_dim": "width", "batch_size": "batch"}
SHORT |= {"generator_hidden_dim": "G width", "discriminator_hidden_dim": "D width"}


@dataclass
class Group:
    """Runs that differ in nothing but the seed."""

    settings: dict[str, Any]  # the defining ones, without the seed
    runs: list[Run]

    @property
    def scored(self) -> list[Run]:
        return [run for run in self.runs if run.fid]

    @property
    def fids(self) -> list[float]:
        return [run.fid["value"] for run in self.scored]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.fids)


def group_runs(runs: list[Run]) -> list[Group]:
    groups: dict[str, Group] = {}
    for run in runs:
        group = Group(defining(run), [])
        groups.setdefault(repr(group.settings), group).runs.append(run)
    return list(groups.values())


def defining(run: Run) -> dict[str, Any]:
    """The settings that say what was trained, the step count with them, the seed left out."""
    names = [f.name for f in fields(run.config) if f.metadata["role"] == "defines"]
    settings = {name: getattr(run.config, name) for name in names if name != "seed"}
    return settings | {"steps": run.trainer.step}


def varying(groups: list[Group]) -> list[str]:
    return differing([group.settings for group in groups])


def differing(rows: list[dict[str, Any]]) -> list[str]:
    """The settings in which the rows differ, in the order of the config."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if len({str(row.get(name)) for row in rows}) > 1]


def label(group: Group, names: list[str]) -> str:
    """latent 100, width 16: what tells this group from others; alone, the homework's settings."""
    names = names or [name for name in ("latent_dim", *HIDDEN) if name in group.settings]
    return in_short(with_hidden_dim({name: group.settings.get(name) for name in names}))


def in_short(settings: dict[str, Any]) -> str:
    parts = {name: f"{SHORT.get(name, name)} {value}" for name, value in settings.items()}
    if "arch" in parts:
        parts["arch"] = str(settings["arch"]).upper()  # CNN, MLP
    return ", ".join(parts.values())


def name_runs(groups: list[Group]) -> None:
    """Give each run a short name: its group's label; of several, the seed or else the folder."""
    for group in groups:
        seeds = [run.config.seed for run in group.runs]
        for run, seed in zip(group.runs, seeds, strict=True):
            own = f"seed {seed}" if seeds.count(seed) == 1 else run.name
            parts = [label(group, varying(groups)), own * (len(seeds) > 1)]
            run.short = ", ".join(filter(None, parts)) or run.name


def with_hidden_dim(settings: dict[str, Any]) -> dict[str, Any]:
    """Both widths as one `hidden_dim` if they are equal, as the homework has it."""
    widths = {settings.get(name) for name in HIDDEN}
    if len(widths) > 1 or None in widths:
        return settings
    rest = {name: value for name, value in settings.items() if name not in HIDDEN}
    return rest | {"hidden_dim": widths.pop()}


@dataclass
class Effect:
    """One setting changed, all others equal."""

    factor: str
    before: Any
    after: Any
    others: str
    means: tuple[float, float]
    standard_error: float | None  # of the difference, from the spread over seeds

    @property
    def difference(self) -> float:
        return self.means[1] - self.means[0]


def effects(groups: list[Group], factors: tuple[str, ...]) -> list[Effect]:
    """Every pair of neighbouring values of a factor among otherwise equal groups with a FID."""
    scored = [group for group in groups if group.fids]
    names, spread = differing([with_hidden_dim(g.settings) for g in scored]), seed_spread(groups)
    found = []
    for factor in factors:
        alike: dict[str, list[tuple[Any, dict[str, Any], Group]]] = {}
        for group in scored:  # a width alone changes only while the two are kept apart
            rest = dict(group.settings if factor in HIDDEN else with_hidden_dim(group.settings))
            if factor in rest:
                value = rest.pop(factor)
                alike.setdefault(repr(sorted(rest.items())), []).append((value, rest, group))
        for same in alike.values():
            same.sort(key=lambda entry: sort_key(entry[0]))
            for (before, rest, first), (after, _, second) in pairwise(same):
                others = in_short({name: rest[name] for name in names if name in rest})
                counted = math.sqrt(sum(1 / len(g.fids) for g in (first, second)))
                error = spread and spread[0] * counted
                means = first.mean, second.mean
                found.append(Effect(factor, before, after, others, means, error))
    return found


def sort_key(value: Any) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (math.inf, str(value))


def seed_spread(groups: list[Group]) -> tuple[float, int, int] | None:
    """The FID's standard deviation over seeds, pooled; from how many groups, degrees of freedom."""
    several = [group.fids for group in groups if len(group.fids) > 1]
    squares = sum((len(v) - 1) * statistics.variance(v) for v in several)
    degrees = sum(len(v) - 1 for v in several)
    return (math.sqrt(squares / degrees), len(several), degrees) if several else None
