"""The command line: one flag a setting, and errors of one sentence.

argv -> flags given, over a preset, over a run's saved settings, over the defaults -> a config.
"""

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from lib.config import C, Config, load_saved, merge
from lib.errors import UserError


def parse(argv: list[str], systems: dict[str, Any], description: str) -> C:
    """argv -> config of the model's `config_class`, in `systems` by name. `--run NAME` of an existing run starts from that run's saved settings.

    Raises UserError where a flag contradicts what defines that run.
    """
    first = Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--model")
    first.add_argument("--run", default="")
    first.add_argument("--runs_dir", default=Config.runs_dir)
    early, _ = first.parse_known_args(argv)
    path = Path(early.runs_dir) / early.run / "config.json"
    saved = load_saved(path) if early.run and path.is_file() else {}
    model = early.model or saved.get("model", Config.model)
    if saved and model != saved.get("model", model):
        raise UserError(
            f"{path.parent} is a run of --model {saved['model']}, not of {model}: leave --model out"
            " to go on with it, or give another --run."
        )
    if not isinstance(model, str) or model not in systems:
        raise UserError(f"--model {model}: wanted one of {', '.join(systems)}.")
    parser = make_parser(systems[model].config_class, description, models=list(systems))
    given = vars(parser.parse_args(argv))
    preset = preset_fields(
        systems[model].config_class, given.pop("preset", "")
    )  # dissolved into fields
    try:
        return merge(systems[model].config_class, saved, {"model": model} | preset | given, path)
    except UserError as error:
        unsaid = {name: value for name, value in preset.items() if name not in given}
        own = [f"--{name} {value}" for name, value in unsaid.items() if f"--{name} " in str(error)]
        if own:  # the user has given none of these, and would look for them in vain
            error = UserError(f"{error} The preset has {', '.join(own)}: give another value.")
        raise error from None


def preset_fields(config_class: type[Config], name: str) -> dict[str, Any]:
    if name and name not in config_class.PRESETS:
        known = ", ".join(config_class.PRESETS) or "none"
        raise UserError(f"--preset {name}: this model's presets are: {known}.")
    return config_class.PRESETS[name] if name else {}


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors and a guess at what was meant."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[1], flags, n=1)
            message = f"unknown flag {unknown[1]}" + (f": did you mean {near[0]}?" if near else "")
        self.exit(2, f"error: {message.rstrip('.?')}; --help lists every flag.\n")


def make_parser(
    config_class: type[Config], description: str, *, models: Sequence[str] = ()
) -> Parser:
    """One flag a field, grouped; a flag that is not given leaves no trace in the namespace."""
    names = {"model": models, "preset": list(config_class.PRESETS)}  # parse itself refuses others
    parser = Parser(
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=100),
    )
    titles = dict.fromkeys(f.metadata["group"] for f in dataclasses.fields(config_class))
    groups = {title: parser.add_argument_group(title) for title in titles}
    for field in dataclasses.fields(config_class):
        rule = field.metadata
        group = groups[rule["group"]]
        if field.type is bool:
            group.add_argument(
                f"--{field.name}",
                nargs="?",  # a value takes back what a preset or the run's settings say
                const=True,
                type=on_or_off,
                metavar="on|off",
                help=rule["text"] + " (default: off)",
            )
            continue
        shown = "" if field.default == "" else f" (default: {field.default})"
        choices = list(rule["choices"]) or None
        listed = "{" + ",".join(names[field.name]) + "}" if names.get(field.name) else ""
        group.add_argument(
            f"--{field.name}",
            type=field.type,
            choices=choices,
            metavar=None if choices else listed or field.type.__name__.upper(),
            help=rule["text"].replace("%", "%%") + shown,
        )
    return parser


def on_or_off(word: str) -> bool:
    """The value of a boolean flag, which may be left out for on."""
    if word not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"found {word!r}, wanted on or off (or nothing, for on)")
    return word == "on"


def print_error(error: UserError, *, file: TextIO | None = None) -> int:
    """One sentence on stderr, or to the file given; the exit status."""
    print(f"error: {error}", file=file or sys.stderr)
    return 1
