"""The command line: one flag a setting, and errors of one sentence.

argv -> flags given, over a preset, over a run's saved settings, over the defaults -> a config.
"""

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from lib.config import RETIRED, C, Config, load_saved, merge
from lib.errors import UserError
from lib.settings import GROUPS


def parse(argv: list[str], systems: Mapping[str, Any], description: str) -> C:
    """argv -> config. `--run NAME` of an existing run starts from that run's saved settings.

    systems: by the name that --model takes, each with its `config_class` or that class alone.
    Raises UserError if a flag contradicts what defines that run.
    """
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--model")
    first.add_argument("--run", default="")
    first.add_argument("--runs_dir", default=Config.runs_dir)
    first.add_argument("--help_all", action="store_true")
    early, _ = first.parse_known_args(argv)
    path = Path(early.runs_dir) / early.run / "config.json"
    saved = load_saved(path) if early.run and path.is_file() else {}
    model = saved.get("model", Config.model) if early.model is None else early.model
    if saved and model != saved.get("model", model):
        raise UserError(
            f"{path.parent} is a run of --model {saved['model']}, not of {model}: leave --model out"
            " to go on with it, or give another --run."
        )
    if not isinstance(model, str) or model not in systems:
        raise UserError(f"--model {model}: wanted one of {', '.join(systems)}.")
    config_class: type[C] = getattr(systems[model], "config_class", systems[model])
    show = "all" if early.help_all else "basic" if early.model is None else "own"
    parser = make_parser(config_class, description, models=list(systems), show=show)
    given = vars(parser.parse_args(argv))
    name, presets = given.pop("preset", ""), config_class.PRESETS
    if name and name not in presets:
        known = ", ".join(presets) or "none"
        raise UserError(f"--preset {name}: this model's presets are: {known}.")
    preset = config_class.fitted(presets.get(name, {}), given)  # dissolved into fields
    try:
        return merge(config_class, saved, {"model": model} | preset | given, path)
    except UserError as error:
        unsaid = {name: value for name, value in preset.items() if name not in given}
        own = [f"--{name} {value}" for name, value in unsaid.items() if f"--{name} " in str(error)]
        if own:  # the user has given none of these, and would look for them in vain
            error = UserError(f"{error} The preset has {', '.join(own)}: give another value.")
        raise error from None


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors and a guess at what was meant."""

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        every = "--help_all" if "--help_all" in flags else "--help"
        message = f"{message.rstrip('.?')}; {every} lists every flag."
        if unknown := re.match(r"unrecognized arguments: (--([\w-]+))", message):
            flag, name = unknown.groups()
            near = difflib.get_close_matches(flag, flags, n=1)
            message = f"unknown flag {flag}; {every} lists every flag."
            if name in RETIRED:
                message = f"{flag} is no longer a flag: {RETIRED[name].instead}."
            elif near:
                message = f"unknown flag {flag}: did you mean {near[0]}? {every} lists every flag."
        self.exit(2, f"error: {message}\n")


def make_parser(
    config_class: type[Config], description: str, *, models: Sequence[str] = (), show: str = "all"
) -> Parser:
    """Make one flag of each field; a flag that is not given leaves no trace in the namespace.

    show: the flags in --help: basic, own (those of this model too), or all.
    """
    parser = Parser(
        usage="%(prog)s [--do_train] [--model NAME] [flags]",
        description=description,
        epilog=EPILOG.get(show),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=100),
    )
    parser.add_argument("--help_all", action="help", help="show every flag and exit")
    groups = {title: parser.add_argument_group(title) for title in ("main flags", *GROUPS)}
    shared = {field.name for field in dataclasses.fields(Config)}
    names = {"model": models, "preset": list(config_class.PRESETS)}  # parse itself refuses others
    for field in dataclasses.fields(config_class):
        level = field.metadata["level"]
        shown = level != "all" or show == "all" or (show == "own" and field.name not in shared)
        group = groups["main flags" if level == "main" else field.metadata["group"]]
        add_flag(group, field, names.get(field.name, ()), shown=shown)
    return parser


EPILOG = {
    "basic": "These are the flags used most. --help_all shows every flag; --model NAME --help shows"
    " those of a model. The settings of a preset: --preset NAME --dry_run.",
    "own": "--help_all shows also how to log, score and place a run.",
}


def add_flag(
    group: argparse._ArgumentGroup, field: dataclasses.Field, names: Sequence[str], *, shown: bool
) -> None:
    """Add a field's flag to its group in --help. names: what it takes, if not its choices."""
    rule = field.metadata
    text = rule["text"].replace("%", "%%")
    for name, wanted in rule["only_with"].items():
        wanted = wanted if isinstance(wanted, str) else "|".join(wanted)
        text += f" [--{name} {wanted}]"
    if field.type is bool:
        form = {"nargs": "?", "const": True, "type": on_or_off, "metavar": "on|off"}
        text += " (default: off)"  # a value takes back what a preset or a saved run says
    else:
        listed = "{" + ",".join(names) + "}" if names else field.type.__name__.upper()
        choices = list(rule["choices"]) or None
        form = {"type": field.type, "choices": choices, "metavar": None if choices else listed}
        text += "" if field.default == "" else f" (default: {field.default})"
    group.add_argument(f"--{field.name}", help=text if shown else argparse.SUPPRESS, **form)


def on_or_off(word: str) -> bool:
    """Read the value of a boolean flag; left out, it means on."""
    if word not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"found {word!r}, wanted on or off (or nothing, for on)")
    return word == "on"


def print_error(error: UserError, *, file: TextIO | None = None) -> int:
    """Print one sentence on stderr, or to the file given; return the exit status."""
    print(f"error: {error}", file=file or sys.stderr)
    return 1
