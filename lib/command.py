"""Begin and end a command: flags, device, what it is about to do, errors as a sentence."""

import argparse
import errno
import functools
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import torch

from lib.checkpoint import trained_runs
from lib.config import PLAIN, Config, describe
from lib.errors import UserError, is_out_of_memory
from lib.files import is_endless
from lib.flags import Parser, print_error

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_DISK = (
    "has no room for what this run writes: make some and run the same command again; a training"
    " goes on from its last checkpoint. The system says:"
)
NAMED = 5  # runs in a message
OUT_OF_MEMORY = (
    "the memory of this machine or its GPU is too small for these settings: lower --batch_size, the"
    " widths, or the number and size of the images. What was saved before is whole."
)
Bounds = tuple[float, float] | None
Flag = tuple[tuple[str, ...], Bounds, dict[str, Any]]


def flag(*names: str, bounds: Bounds = None, **options: Any) -> Flag:
    """The arguments of argparse's add_argument, and the least and the largest value allowed."""
    return names, bounds, options


class Help(argparse.RawDescriptionHelpFormatter):
    """The script's docstring as it stands, and each flag's default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.default in (None, "", argparse.SUPPRESS) or "(default" in action.help
        silent = told or action.default is False
        return action.help if silent else f"{action.help} (default: %(default)s)"


def command(*flags: Flag, passes: Callable[[argparse.Namespace], bool] | None = None) -> Callable:
    """Turn work(args) into main(argv) -> exit status; argv None: the command line's.

    passes: words that are no flag's are left in args.rest; True lets unknown flags be among them.
    """

    def decorate(work: Callable[[argparse.Namespace], int | None]) -> Callable:
        def parse_and_work(argv: list[str] | None) -> int | None:
            text = work.__globals__["__doc__"]
            parser = Parser(description=text, formatter_class=Help, allow_abbrev=False)
            actions = [parser.add_argument(*names, **options) for names, _, options in flags]
            args, rest = parser.parse_known_args(argv)
            unknown = rest if passes is None else [word for word in rest if word.startswith("-")]
            if unknown and not (passes and passes(args)):
                parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            args.rest = rest
            for action, (_, bounds, _) in zip(actions, flags, strict=True):
                check_bounds(action, value := getattr(args, action.dest), bounds)
                for path in value if isinstance(value, list) else [value]:
                    if isinstance(path, str | Path) and is_endless(path):
                        raise UserError(f"{path} is a pipe or a device: wanted a file or a folder.")
            words = sys.argv[1:] if argv is None else argv
            if "--out=" in words or ("--out", "") in pairwise(words):
                raise UserError("--out is empty: wanted a path; for this folder give a dot.")
            return work(args)

        @functools.wraps(work)
        def main(argv: list[str] | None = None) -> int:
            return run(lambda: parse_and_work(argv))

        return main

    return decorate


def check_bounds(action: argparse.Action, value: Any, bounds: Bounds) -> None:
    """Raises UserError if a number that was given lies outside its bounds, or is NaN."""
    if bounds is None or value is None or value == action.default:
        return
    least, largest = bounds
    if not least <= value <= largest:
        wanted = f"at most {largest}" if value > largest else f"at least {least}"
        raise UserError(f"{action.option_strings[0]} {value}: wanted {wanted}.")


def run(action: Callable[[], int | None], *, voice: TextIO | None = None) -> int:
    """Run a command; its exit status: 0, 1 for what the user can mend, 130 for Ctrl-C.

    voice: the stream for an error that one process of several meets alone (default: stderr).
    """
    for name in ("stdout", "stderr"):  # a character that a terminal lacks ends nothing
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 (a service has none)
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        return action() or 0
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        return print_error(UserError(sentence(error)), file=voice)
    except (MemoryError, RuntimeError, TypeError) as error:
        if not is_out_of_memory(error):
            raise
        return print_error(UserError(OUT_OF_MEMORY), file=voice)


def sentence(error: OSError) -> str:
    """Name the file, and say what the system says of it."""
    if error.errno in FULL:
        return f"{error.filename or 'the disk'} {FULL_DISK} {error.strerror}."
    return f"{error.filename or 'a file'} can't be used: {error.strerror or error}."


def pick_device(config: Config) -> torch.device:
    """Choose the device of --device and --no_cuda.

    Raises UserError if this machine has no such device.
    """
    if config.no_cuda and config.device == "cuda":
        raise UserError("--no_cuda and --device cuda contradict each other: leave one out.")
    cuda = torch.cuda.is_available() and not config.no_cuda
    mps = torch.backends.mps.is_available()
    if config.device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if not {"cpu": True, "cuda": cuda, "mps": mps}[config.device]:
        raise UserError(f"--device {config.device}: this machine has none; leave the flag out.")
    return torch.device(config.device)


def be_deterministic() -> None:
    """Make CUDA's results bit-identical from run to run."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def summary(trainer: Any) -> str:
    """The settings, the networks' sizes, the machine."""
    config = trainer.config
    processes = f", {trainer.ranks} processes" if trainer.ranks > 1 else ""
    sizes = (
        f"{name} {sum(p.numel() for p in network.parameters()):,}"
        for name, network in trainer.networks.items()
    )
    return (
        f"{config.run_name}\n{describe(config)}\n"
        f"  parameters  {', '.join(sizes)}\n"
        f"  running on  {trainer.device}, torch {torch.__version__}{processes}"
    )


def no_checkpoint(trainer: Any) -> str:
    """Say that a fresh run is scored, and which others can be; UserError if --run named it."""
    config = trainer.config
    said = f"no checkpoint in {trainer.checkpoint_dir}"
    said += "." if config.run else ": scoring a fresh initialisation"
    runs = [run.name for run in trained_runs(config.runs_dir) if PLAIN.fullmatch(run.name)]
    usual = {f.name: f.default for f in fields(config)}
    flags = [
        f" --{name} {shlex.quote(value)}"
        for name in ("runs_dir", "data_dir")
        if (value := getattr(config, name)) != usual[name]
    ]
    lines = [f"  python main.py --run {name}{''.join(flags)}" for name in runs[:NAMED]]
    more = [f"  and {len(runs) - NAMED} older ones"] if runs[NAMED:] else []
    told = "\n".join([said, *["to score a trained run, newest first:"] * bool(runs), *lines, *more])
    if config.run:
        raise UserError(told)
    return told


def plan(trainer: Any) -> str:
    """Say what the same command without --dry_run would do and write."""
    config = trainer.config
    found = trainer.resume()
    lines = [f"a checkpoint of step {trainer.step} is there" if found else "no checkpoint is there"]
    files = [] if config.no_score else ["results.jsonl"]
    if config.do_train:
        lines.append(
            f"would train steps {trainer.step} to {config.num_training_steps}"
            if trainer.step < config.num_training_steps
            else f"would train nothing: --num_training_steps is {config.num_training_steps}"
        )
        files = ["config.json", "samples/", "checkpoints/", *files]
    if not config.no_score:
        lines.append(f"would score by FID, protocol {config.fid_protocol}")
    files += ["events.out.tfevents.*"] if files else []
    lines.append(f"would write {', '.join(files) or 'nothing'} in {config.run_dir}/")
    lines.append(f"would fetch what is missing into {config.data_dir}/ and inception/")
    return "dry run, nothing is written:\n" + "\n".join(f"  {line}" for line in lines)
