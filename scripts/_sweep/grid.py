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
BOOLEANS = {"true": True, "false": False}


def plan_runs(base: Config, grid: dict[str, list[Any]], seeds: list[int]) -> list[Config]:
    """One config a run: every combination of the grid's values, the seeds of each side by side.

    base gives all other settings, grid = {"latent_dim": [16, 100], "hidden_dim": [16, 100]}, in the
    order of the table's rows. Nothing is run or written. Raises UserError if a name is no setting
    that defines a run, or if a value is out of the config class's bounds.
    """
    if base.run:
        raise UserError(f"--run {base.run}: the runs of a sweep name themselves; leave it out.")
    fields = [fields_of(name, type(base)) for name in grid]
    refuse_twice([field.name for group in fields for field in group])
    runs = {}
    for values in itertools.product(*grid.values()):
        changes: dict[str, Any] = {"do_train": True, "dry_run": False}
        for group, value in zip(fields, values, strict=True):
            changes |= {field.name: value for field in group}
        for seed in seeds:
            config = dataclasses.replace(base, seed=seed, **changes)
            other = runs.setdefault(config.run_name, config)
            if differing := differences(config, dataclasses.asdict(other)):
                raise UserError(
                    f"two runs of the grid would have one name, {config.run_name}:"
                    f" {'; '.join(differing)}. Give each a --runs_dir of its own."
                )
    return list(runs.values())


def grid_point(config: Config, names: list[str]) -> dict[str, Any]:
    """Where in the grid a run stands: {"latent_dim": 16, "hidden_dim": 100}."""
    return {name: getattr(config, fields_of(name, type(config))[0].name) for name in names}


def parse_grid(words: list[str], config_class: type[Config]) -> dict[str, list[Any]]:
    """["latent_dim=16,100", "ema=0.99"] -> {"latent_dim": [16, 100], "ema": [0.99]}, typed."""
    grid = {}
    for word in words:
        name, _, values = word.partition("=")
        if not name or not values:
            raise UserError(f"--grid {word}: wanted NAME=VALUE,VALUE, as in latent_dim=16,100.")
        if name in grid:
            raise UserError(f"--grid {name} is given twice: put its values in one list.")
        field = fields_of(name, config_class)[0]
        grid[name] = list(dict.fromkeys(to_value(name, v, field) for v in values.split(",")))
    return grid


def to_value(name: str, word: str, field: dataclasses.Field) -> Any:
    """A word of the command line as the field's type; its bounds are the config class's own."""
    try:
        return BOOLEANS[word.lower()] if field.type is bool else field.type(word)
    except (KeyError, ValueError):
        wanted = "true or false" if field.type is bool else f"a value of type {field.type.__name__}"
        raise UserError(f"--grid {name}={word}: wanted {wanted}.") from None


def parse_seeds(text: str) -> list[int]:
    """ "3" -> [42, 43, 44], counted from the default seed; "1,5,9" -> [1, 5, 9]; "7," -> [7]."""
    try:
        numbers = [int(word) for word in text.removesuffix(",").split(",")]
    except ValueError:
        numbers = []
    count = "," not in text
    if not numbers or min(numbers) < count:
        raise UserError(
            f"--seeds {text}: wanted how many, as 3, or a list of them, as 1,5,9 (7, is seed 7)."
        )
    return [Config.seed + i for i in range(numbers[0])] if count else list(dict.fromkeys(numbers))


def fields_of(name: str, config_class: type[Config]) -> list[dataclasses.Field]:
    """The config fields that a name of the grid sets; UserError if it can't be swept."""
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    widths = [field for key, field in fields.items() if key.endswith(f"_{WIDTHS}")]
    if name == WIDTHS and name not in fields and widths:
        return widths
    if name not in fields:
        raise UserError(unknown(name, [*swept(config_class), *([WIDTHS] if widths else [])]))
    if name == "seed":
        raise UserError("--grid seed: give the seeds by --seeds, as --seeds 3 or --seeds 1,5,9.")
    if name not in swept(config_class):
        raise UserError(
            f"--grid {name}: runs that differ in it alone are the same run, in one folder."
            f" Give it to all of them, as --{name} VALUE."
        )
    return [fields[name]]


def swept(config_class: type[Config]) -> list[str]:
    """The settings that make one run another one, so that each value has a folder of its own."""
    return [
        field.name
        for field in dataclasses.fields(config_class)
        if field.metadata["role"] == "defines" and field.name not in ("model", "seed")
    ]


def unknown(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"wanted one of {', '.join(choices)}."
    return f"--grid {name} is no setting of this system: {hint}"


def refuse_twice(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--grid sets {name} twice: {WIDTHS} already stands for all widths.")
