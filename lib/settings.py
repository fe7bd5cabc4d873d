"""The settings of a config: what a field says about itself, and what its value must be.

    latent_dim: int = width(16, "size of z", tag="z{}")

makes a dataclass field with its default, help text, group in --help and bounds, and with its role:
    defines   part of what the run is: in its name, and never changed by a resume
    free      step counts, intervals, how it is scored: may change from one command to the next
    once      where and how this one command runs (device, folders): not taken from a saved config

A subclass gives a setting another default by `learning_rate: float = default(1e-4)`.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

from lib.errors import UserError
from lib.files import is_endless

MOST = {int: 10**12, float: 1e38}  # of a number whose setting names no bound of its own
MOST_UNITS = 1_000_000  # of a width or a batch: beyond it, no machine's memory is enough
MOST_REPEATS = 1000  # of layers, or of updates a step: beyond it, a step would not end
ABOVE_0 = "above 0"  # in only_with


def setting(
    default: Any,
    text: str,
    *,
    group: str,
    role: str = "defines",
    level: str = "all",  # "main" and "basic" are in the short --help
    tag: str = "",  # "z{}" puts the value in every run's name
    choices: tuple = (),
    at_least: float = 0,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    only_with: dict[str, Any] | None = None,  # {setting: the value, values or ABOVE_0 it needs}
) -> Any:
    """Make a dataclass field that knows its flag."""
    metadata = {"text": text, "group": group, "role": role, "level": level, "tag": tag}
    metadata |= {"choices": choices, "at_least": at_least, "above": above, "below": below}
    metadata |= {"at_most": at_most, "only_with": only_with or {}}
    return dataclasses.field(default=default, metadata=metadata)


task = partial(setting, group="what to do", role="once")
data = partial(setting, group="data")
network = partial(setting, group="networks")
width = partial(network, at_least=1, at_most=MOST_UNITS)
game = partial(setting, group="game")
training = partial(setting, group="training")
logging = partial(setting, group="logging", role="free")
scoring = partial(setting, group="scoring", role="free")
machine = partial(setting, group="machine", role="once")

GROUPS = ("what to do", "data", "networks", "game", "training", "logging", "scoring", "machine")


class Default(NamedTuple):
    value: Any
    changes: dict[str, Any]


def default(value: Any, **changes: Any) -> Any:
    """Give an inherited setting another default; `changes` replace arguments of its setting()."""
    return Default(value, changes)


def complete_defaults(config_class: type) -> None:
    """Turn every `default(...)` of a class body into a field, by what the base says of it."""
    for name, given in list(vars(config_class).items()):
        if isinstance(given, Default):
            known = (vars(base).get("__dataclass_fields__", {}) for base in config_class.__mro__)
            rule = next(fields[name] for fields in known if name in fields).metadata
            field = dataclasses.field(default=given.value, metadata={**rule, **given.changes})
            setattr(config_class, name, field)


def check(field: dataclasses.Field, value: Any) -> None:
    """Raise UserError, with found and wanted, if a value has the wrong type or breaks a bound."""
    rule = field.metadata
    types = (int, float) if field.type is float else field.type
    wanted = ""
    if isinstance(value, bool) != (field.type is bool) or not isinstance(value, types):
        wanted = f"a value of type {field.type.__name__}"
    elif rule["choices"]:
        if value not in rule["choices"]:
            wanted = "one of " + ", ".join(map(str, rule["choices"]))
    elif field.type is str and is_endless(value):
        wanted = "a file or a folder"
    elif field.type in MOST:
        wanted = broken_bound(value, rule, MOST[field.type])
    if wanted:
        found = str(value)
        found = found if len(found) <= 50 else found[:50] + "..."
        raise UserError(f"--{field.name} {found}: wanted {wanted}.")


def broken_bound(value: float, rule: Any, most: float) -> str:
    """The bound that a number breaks, in words; "" if it is within all of them."""
    most = most if rule["at_most"] is None else rule["at_most"]
    bounds = {
        f"more than {rule['above']}": rule["above"] is None or value > rule["above"],
        f"at least {rule['at_least']}": value >= rule["at_least"],
        f"less than {rule['below']}": rule["below"] is None or value < rule["below"],
        f"at most {most:,}": value <= most,
    }
    return next((words for words, held in bounds.items() if not held), "")


def refuse_misplaced(config: Any) -> None:
    """Raise UserError if a setting was changed that does nothing beside the others (only_with)."""
    misplaced: dict[tuple[str, str], list[str]] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for other, wanted in field.metadata["only_with"].items():
            wanted = (wanted,) if isinstance(wanted, str) else wanted
            found = getattr(config, other)
            fits = found > 0 if wanted == (ABOVE_0,) else found in wanted
            if value != field.default and not fits:
                misplaced.setdefault((other, "|".join(wanted)), []).append(
                    f"--{field.name} {value}"
                )
    for (other, wanted), flags in misplaced.items():
        belong, them = ("belongs", "it") if len(flags) == 1 else ("belong", "them")
        raise UserError(
            f"{' '.join(flags)} {belong} to --{other} {wanted}, and this is"
            f" {getattr(config, other)}. Change --{other}, or leave {them} out."
        )
