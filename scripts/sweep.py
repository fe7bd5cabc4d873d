"""Train and score a grid of settings over several seeds, and tabulate the FIDs.

    python scripts/sweep.py --grid latent_dim=16,100 hidden_dim=16,100 --seeds 3
    python scripts/sweep.py --grid ema=0,0.999 --num_training_steps 200 --dry_run

hidden_dim sets the widths of all networks; any other name is a setting of --model. Every other flag
of main.py is passed to all runs. The same command again goes on where it stopped. docs/sweep.md.
"""

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from lib.config import Config
from lib.errors import UserError
from lib.flags import Parser, make_parser, parse, print_error
from main import SYSTEMS, pick_device
from scripts._sweep.cost import Cost, in_words, measure
from scripts._sweep.grid import fields_of, parse_grid, parse_seeds, plan_runs
from scripts._sweep.runs import (
    Outcome,
    find_result,
    main_command,
    run_all,
    step_reached,
    steps_to_do,
)
from scripts._sweep.table import notes, problems, table, write

__all__ = ["Outcome", "find_result", "main", "plan_runs", "run_all", "table"]

REFUSED = {  # flags of main.py that would leave a sweep without sense
    "seed": "give the seeds by --seeds, as --seeds 3 or --seeds 1,5,9",
    "run": "the runs of a sweep name themselves; leave it out",
    "no_score": "the table is one of scores; leave it out",
}


def main(argv: list[str] | None = None, command: Callable = main_command) -> int:
    """0 if every run is finished, 1 if one failed or a flag is wrong, 2 for unknown flags,

    130 or 143 if stopped. command: see run_all.
    """
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        return run(sys.argv[1:] if argv is None else argv, command)
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        where = error.filename or "a file of this sweep"
        return print_error(UserError(f"{where} can't be used: {error.strerror}."))


def run(argv: list[str], command: Callable) -> int:
    args, rest = parse_ours(argv)
    base, grid = parse_theirs(rest, args.grid)
    configs = plan_runs(base, grid, parse_seeds(args.seeds))
    refuse_past(configs)
    device = pick_device(base)
    threads = share_threads(args.jobs, device)
    todo = [config for config in configs if not find_result(config)]
    costs = measure(todo, device) if todo else {}
    print(plan(configs, costs, args.jobs, device, threads), flush=True)
    if args.dry_run:
        print("dry run: nothing is run")
        return 0
    outcomes = run_all(configs, jobs=args.jobs, threads=threads, costs=costs, command=command)
    return report(outcomes, list(grid))


def parse_ours(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The sweep's own flags, and the words that are left for main.py."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    text = "values to combine, of hidden_dim (all widths) or of any setting of --model"
    parser.add_argument(
        "--grid", nargs="+", action="extend", default=[], metavar="NAME=V,V", help=text
    )
    text = "how many, counted from 42, or a list as 1,5,9 (7, is seed 7 alone; default: 1)"
    parser.add_argument("--seeds", default="1", help=text)
    text = "runs at a time; on a CPU the threads are divided among them (default: 1)"
    parser.add_argument("--jobs", type=int, default=1, help=text)
    parser.add_argument("--dry_run", action="store_true", help="print the plan and stop")
    args, rest = parser.parse_known_args(argv)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: wanted at least 1.")
    return args, rest


def parse_theirs(rest: list[str], words: list[str]) -> tuple[Config, dict[str, list]]:
    """What all runs share, by main.py's own parser, and the grid, by the model's own fields."""
    classes = {name: system.config_class for name, system in SYSTEMS.items()}
    base = parse(rest, classes, "flags of main.py")
    config_class = classes[base.model]
    grid = parse_grid(words, config_class)
    given = set(vars(make_parser(config_class, "").parse_args(rest)))
    for name in given & set(REFUSED):
        raise UserError(f"--{name}: {REFUSED[name]}.")
    for name in grid:
        for field in fields_of(name, config_class):
            if field.name in given:
                raise UserError(f"--{field.name} is in the grid too: leave one of them out.")
    return dataclasses.replace(base, do_train=True, dry_run=False), grid


def refuse_past(configs: list[Config]) -> None:
    """main.py would score the later step, which is another point of the run than the one asked."""
    for config in configs:
        if steps_to_do(config) < 0 and not find_result(config):
            raise UserError(
                f"{config.run_dir} is at step {step_reached(config)} already, past"
                f" --num_training_steps {config.num_training_steps}, and was not scored there:"
                " give more steps, or another --runs_dir."
            )


def share_threads(jobs: int, device: torch.device) -> int | None:
    """Threads of each run on a CPU, and of the timing; None elsewhere: the device does the work."""
    if device.type != "cpu":
        return None
    threads = max(1, torch.get_num_threads() // jobs)
    torch.set_num_threads(threads)
    return threads


def plan(
    configs: list[Config],
    costs: dict[str, Cost],
    jobs: int,
    device: torch.device,
    threads: int | None,
) -> str:
    """What will be run, and about how long it takes."""
    base = configs[0]
    width = max(len(config.run_name) for config in configs)
    total = sum(costs[c.run_name].of(steps_to_do(c)) for c in configs if c.run_name in costs)
    share = f", {threads} thread{'s' * (threads > 1)} each" if threads else ""
    lines = [
        f"{len(configs)} runs of {base.model} in {base.runs_dir}/, to step"
        f" {base.num_training_steps}, FID {base.fid_protocol} in {base.fid_precision}"
    ]
    for config in configs:
        cost = costs.get(config.run_name)
        about = f"  about {in_words(cost.of(steps_to_do(config)))}" if cost else ""
        lines.append(f"  {config.run_name:{width}}  {state(config)}{about}")
    lines.append(f"on {device}, {jobs} at a time{share}")
    if costs:
        lines.append(
            f"about {in_words(total / min(jobs, len(costs)))} in all: an estimate, from steps and"
            " images timed just now; starting up is left out"
            + (", and that runs side by side slow each other down" if jobs > 1 else "")
        )
    return "\n".join(lines)


def state(config: Config) -> str:
    """One of four, padded: what a run's folder says about it."""
    result, step = find_result(config), step_reached(config)
    if result:
        words = f"finished, FID {result['value']:.2f}"
    elif step == config.num_training_steps:
        words = "trained, to be scored"
    else:
        words = f"resumes at step {step}" if step else "new"
    return f"{words:21}"


def report(outcomes: list[Outcome], names: list[str]) -> int:
    """The table and what went wrong, on the terminal and in files; the exit status."""
    print(table(outcomes, names))
    for line in notes(outcomes, names):
        print(line)
    failed = problems(outcomes)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    print("written:", *write(outcomes, names))
    stopped = [outcome for outcome in outcomes if outcome.status == "stopped"]
    if stopped:
        print(
            f"stopped: {len(stopped)} of {len(outcomes)} runs are not done; the same command goes"
            " on from their checkpoints",
            file=sys.stderr,
        )
        return 128 + stopped[0].stopped_by
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
