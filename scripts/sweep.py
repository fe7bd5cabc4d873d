"""Train and score a grid of settings over several seeds, and tabulate the FIDs.

    python scripts/sweep.py --grid latent_dim=16,100 hidden_dim=16,100 --seeds 3
    python scripts/sweep.py --grid ema=0,0.999 --num_training_steps 200 --dry_run

hidden_dim sets the widths of all networks; any other name is a setting of --model. Every other flag
of main.py is passed to all runs. The same command again goes on where it stopped. docs/sweep.md.
"""

import argparse
import dataclasses
import sys

import _root  # noqa: F401
import torch

from lib.command import command, flag, pick_device
from lib.config import Config
from lib.errors import UserError
from lib.flags import make_parser, parse
from main import SYSTEMS
from scripts._sweep.grid import fields_of, parse_grid, parse_seeds, plan_runs
from scripts._sweep.runs import Outcome, find_result, run_all, step_reached
from scripts._sweep.table import notes, problems, table, write

REFUSED = {  # flags of main.py that would leave a sweep without sense
    "seed": "give the seeds by --seeds, as --seeds 3 or --seeds 1,5,9",
    "no_score": "the table is one of scores; leave it out",
}


@command(
    flag(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=V,V",
        help="values to combine, of hidden_dim (all widths) or any setting (default: none)",
    ),
    flag("--seeds", default="1", help="how many, from 42, or a list as 1,5,9 (7, is seed 7 alone)"),
    flag("--jobs", type=int, default=1, bounds=(1, 10_000), help="runs at a time, sharing the CPU"),
    flag("--dry_run", action="store_true", help="print the plan and stop"),
    passes=lambda args: True,
)
def main(args: argparse.Namespace) -> int:
    """0 if every run is finished, 1 if one failed, 130 or 143 if stopped."""
    base, grid = parse_theirs(args.rest, args.grid)
    configs = plan_runs(base, grid, parse_seeds(args.seeds))
    refuse_past(configs)
    device = pick_device(base)
    own_share = base.threads or max(1, torch.get_num_threads() // args.jobs)
    threads = own_share if device.type == "cpu" else None
    share = f", {threads} thread{'s' * (threads > 1)} each" if threads else ""
    print(f"{plan(configs)}\non {device}, {args.jobs} at a time{share}", flush=True)
    if args.dry_run:
        print("dry run: nothing is run")
        return 0
    return report(run_all(configs, jobs=args.jobs, threads=threads), list(grid))


def parse_theirs(rest: list[str], words: list[str]) -> tuple[Config, dict[str, list]]:
    """Read what all runs share by main.py's parser, and the grid by the model's fields."""
    base = parse(rest, SYSTEMS, "flags of main.py")
    config_class = SYSTEMS[base.model].config_class
    grid = parse_grid(words, config_class)
    given = set(vars(make_parser(config_class, "").parse_args(rest)))
    for name in given & set(REFUSED):
        raise UserError(f"--{name}: {REFUSED[name]}.")
    for field in (field for name in grid for field in fields_of(name, config_class)):
        if field.name in given:
            raise UserError(f"--{field.name} is in the grid too: leave one of them out.")
    return dataclasses.replace(base, do_train=True, dry_run=False), grid


def refuse_past(configs: list[Config]) -> None:
    """main.py would score the later step, which is another point of the run than the one asked."""
    for config in configs:
        if step_reached(config) > config.num_training_steps and not find_result(config):
            raise UserError(
                f"{config.run_dir} is at step {step_reached(config)} already, past"
                f" --num_training_steps {config.num_training_steps}, and was not scored there:"
                " give more steps, or another --runs_dir."
            )


def plan(configs: list[Config]) -> str:
    """Say what will be run, and what is there of it."""
    base, width = configs[0], max(len(config.run_name) for config in configs)
    first = (
        f"{len(configs)} run{'s' * (len(configs) > 1)} of {base.model} in {base.runs_dir}/, to step"
        f" {base.num_training_steps}, FID {base.fid_protocol} in {base.fid_precision}"
    )
    return "\n".join([first, *(f"  {c.run_name:{width}}  {state(c)}" for c in configs)])


def state(config: Config) -> str:
    """Say in one of four ways what a run's folder holds."""
    result, step = find_result(config), step_reached(config)
    if result:
        return f"finished, FID {result['value']:.2f}"
    if step == config.num_training_steps:
        return "trained, to be scored"
    return f"resumes at step {step}" if step else "new"


def report(outcomes: list[Outcome], names: list[str]) -> int:
    """The table and what went wrong, on the terminal and in files; the exit status."""
    print(table(outcomes, names), *notes(outcomes, names), sep="\n")
    failed = problems(outcomes)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    print("written:", *write(outcomes, names))
    stopped = [outcome for outcome in outcomes if outcome.status == "stopped"]
    if not stopped:
        return 1 if failed else 0
    left = f"{len(stopped)} of {len(outcomes)} runs are not done"
    print(f"stopped: {left}; the same command goes on from their checkpoints", file=sys.stderr)
    return 128 + stopped[0].stopped_by


if __name__ == "__main__":
    sys.exit(main())
