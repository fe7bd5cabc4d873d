"""What a command is about to do, in words: printed before it does anything."""

from typing import Any

import torch

from lib.config import describe


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


def plan(trainer: Any) -> str:
    """What the same command without --dry_run would do and write."""
    config = trainer.config
    found = trainer.resume()
    lines = [f"a checkpoint of step {trainer.step} is there" if found else "no checkpoint is there"]
    files = ["results.jsonl", "events.out.tfevents.*"] if not config.no_score else []
    if config.do_train:
        lines.append(
            f"would train steps {trainer.step} to {config.num_training_steps}"
            if trainer.step < config.num_training_steps
            else f"would train nothing: --num_training_steps is {config.num_training_steps}"
        )
        files = ["config.json", "samples/", "checkpoints/", *files]
    if not config.no_score:
        lines.append(f"would score by FID, protocol {config.fid_protocol}")
    lines.append(f"would write {', '.join(files) or 'nothing'} in {config.run_dir}/")
    lines.append(f"would fetch what is missing into {config.data_dir}/ and inception/")
    return "dry run, nothing is written:\n" + "\n".join(f"  {line}" for line in lines)
