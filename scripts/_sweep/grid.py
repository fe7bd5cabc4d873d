"""A grid over settings, times seeds -> the configs of its runs.

`hidden_dim` stands for every width of a system at once: all its fields that end in _hidden_dim.
"""

import dataclasses
import difflib
import itertools
from typing import Any

from lib.config import Config, differences
from lib.errors import UserError

WIDTHS = "hidden_dim"
BOOLEANS = {"true": True, "on": True, "false": False, "off": False}
MOST_SEEDS = 10_000


def plan_runs(base: Config, grid: dict[str, list[Any]], seeds: list[int]) -> list[Config]:
    """One config a run: every combination of the grid's values, the seeds of each side by side.

    grid: {"latent_dim": [16, 100], "hidden_dim": [16, 100]}, in the order of the table's rows.
    Raises UserError if a name is no setting that defines a run, or if a value is out of bounds.
    """
    if base.run:
        raise UserError(f"--run {base.run}: the runs of a sweep name themselves; leave it out.")
    fields = [fields_of(name, type(base)) for name in grid]
    for name in grid:
        if WIDTHS in grid and name.endswith(f"_{WIDTHS}"):
            raise UserError(f"--grid sets {name} twice: {WIDTHS} already stands for all widths.")
    runs: dict[str, Config] = {}
    for *values, seed in itertools.product(*grid.values(), seeds):
        changes = {f.name: v for group, v in zip(fields, values, strict=True) for f in group}
        config = dataclasses.replace(base, seed=seed, do_train=True, dry_run=False, **changes)
        other = runs.setdefault(config.run_name, config)
        if differing := differences(config, dataclasses.asdict(other)):
            raise UserError(
                f"two runs of the grid would have one name, {config.run_name}:"
                f" {'; '.join(differing)}. Give each a --runs_dir of its own."
            )
    return list(runs.values())


def grid_point(config: Config, names: list[str]) -> dict[str, Any]:
    """Say where in the grid a run stands: {"latent_dim": 16, "hidden_dim": 100}."""
    return {name: getattr(config, fields_of(name, type(config))[0].name) for name in names}


def parse_grid(words: list[str], config_class: type[Config]) -> dict[str, list[Any]]:
    """["latent_dim=16,100", "ema=0.99"] -> {"latent_dim": [16, 100], "ema": [0.99]}, typed."""
    grid: dict[str, list[Any]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if not name or not values:
            raise UserError(f"--grid {word}: wanted NAME=VALUE,VALUE, as in latent_dim=16,100.")
        if name in grid:
            raise UserError(f"--grid {name} is given twice: put its values in one list.")
        kind = fields_of(name, config_class)[0].type
        try:
            typed = [BOOLEANS[v.lower()] if kind is bool else kind(v) for v in values.split(",")]
        except (KeyError, ValueError):
            wanted = "on or off" if kind is bool else f"a value of type {kind.__name__}"
            raise UserError(f"--grid {word}: wanted {wanted}.") from None
        grid[name] = list(dict.fromkeys(typed))
    return grid


def parse_seeds(text: str) -> list[int]:
    """'3' -> [42, 43, 44], counted from the default seed; '1,5,9' -> [1, 5, 9]; '7,' -> [7]."""
    try:
        numbers = [int(word) for word in text.removesuffix(",").split(",")]
    except ValueError:
        numbers = [-1]
    if "," in text and min(numbers) >= 0:
        return list(dict.fromkeys(numbers))
    if "," not in text and 1 <= numbers[0] <= MOST_SEEDS:
        return [Config.seed + i for i in range(numbers[0])]
    raise UserError(
        f"--seeds {text[:40]}: wanted how many, as 3 (at most {MOST_SEEDS}), or a list of them, as"
        " 1,5,9 (7, is seed 7)."
    )


def fields_of(name: str, config_class: type[Config]) -> list[dataclasses.Field]:
    """The config fields that a name of the grid sets; UserError if it can't be swept."""
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    widths = [field for key, field in fields.items() if key.endswith(f"_{WIDTHS}")]
    swept = {key: [field] for key, field in fields.items() if field.metadata["role"] == "defines"}
    swept = {key: found for key, found in swept.items() if key not in ("model", "seed")}
    if widths:
        swept.setdefault(WIDTHS, widths)
    if name in swept:
        return swept[name]
    if name == "seed":
        raise UserError("--grid seed: give the seeds by --seeds, as --seeds 3 or --seeds 1,5,9.")
    if name == "model":
        raise UserError("--grid model: a sweep is of one system; give it as --model NAME.")
    if name in fields:
        raise UserError(
            f"--grid {name}: runs that differ in it alone are the same run, in one folder."
            f" Give it to all of them, as --{name} VALUE."
        )
    near = difflib.get_close_matches(name, swept, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"wanted one of {', '.join(swept)}."
    raise UserError(f"--grid {name} is no setting of this system: {hint}")
