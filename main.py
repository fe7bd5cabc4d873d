"""Train a system, score it, or both.

    python main.py --do_train     train from the latest checkpoint (or afresh), then score by FID
    python main.py                score the latest checkpoint
    tensorboard --logdir runs     see it

Under torchrun several processes share the work (docs/distributed.md).
Flags -> config -> networks -> Trainer -> score; no mathematics here.
"""

import errno
import os
import sys
import threading
import warnings

import torch

from GAN import count_parameters
from lib import distributed
from lib.config import Config, describe
from lib.errors import UserError, is_out_of_memory
from lib.flags import parse, print_error
from metrics.score import Scorer, refuse_early, score
from systems import SYSTEMS
from trainer import Trainer


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, 1 for what the user can mend, 2 for unknown flags, 130/143 if stopped."""
    distributed.one_voice()
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    threading.excepthook = quiet_on_full_disk
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError, TypeError) as error:
        if not is_out_of_memory(error):
            raise
        return print_error(UserError(OUT_OF_MEMORY), file=distributed.own_voice())
    except OSError as error:
        if error.errno in FULL:
            sentence = f"{error.filename or DISK} {FULL_DISK} {error.strerror}."
        else:
            where = error.filename or "a file of this run"
            sentence = f"{where} can't be used: {error.strerror}."
        return print_error(UserError(sentence), file=distributed.own_voice())


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK = "the disk of --runs_dir"
FULL_DISK = (
    "has no room for what this run writes: make some and run the same command again, which goes on"
    " from the last checkpoint. The system says:"
)


def quiet_on_full_disk(hook: threading.ExceptHookArgs) -> None:
    """Not from TensorBoard's thread: its next use raises a full disk again, where it is told."""
    if not (isinstance(hook.exc_value, OSError) and hook.exc_value.errno in FULL):
        threading.__excepthook__(hook)


OUT_OF_MEMORY = (
    "the memory of this machine or its GPU is too small for these settings: lower --batch_size,"
    " the widths or --image_size. What was saved before is whole."
)


def run(argv: list[str]) -> int:
    config_classes = {name: system.config_class for name, system in SYSTEMS.items()}
    config = parse(argv, config_classes, __doc__.split("\n\n")[0])
    device = own_device(pick_device(config))
    if config.deterministic:
        be_deterministic()
    with distributed.session(device):
        work(config, device)
    return 0


def work(config: Config, device: torch.device) -> None:
    """Train and score as the config says; where there are several processes, all run this."""
    trainer = SYSTEMS[config.model](config, device)
    print(summary(trainer))
    if config.request and not config.dry_run:
        serve(trainer)
        return
    if not config.no_score:
        distributed.in_turn(lambda: refuse_early(config))
    if config.dry_run:
        print(plan(trainer))
        return
    scorer = Scorer(trainer) if config.fid_every and config.do_train else None
    if config.do_train:
        trainer.train(scorer and scorer.during_training)
    elif not distributed.together(trainer.resume):
        print(f"no checkpoint in {trainer.checkpoint_dir}: scoring a fresh initialisation")
    if not config.no_score:
        score(trainer, scorer)
    print(f"next: tensorboard --logdir {config.runs_dir}")


def serve(trainer: Trainer) -> None:
    """What a flag of the system's own asks of its latest checkpoint."""
    config = trainer.config
    if config.do_train:
        raise UserError(f"{config.request} uses a trained run: leave --do_train out.")
    if not distributed.together(trainer.resume):
        raise UserError(
            f"{config.request} needs a trained run, and {trainer.checkpoint_dir} holds no"
            " checkpoint: train it with --do_train, or name another with --run."
        )
    distributed.on_main(trainer.serve)


def pick_device(config: Config) -> torch.device:
    """The device asked for; UserError if this machine has none such."""
    if config.no_cuda and config.device == "cuda":
        raise UserError("--no_cuda and --device cuda contradict each other: leave one out.")
    cuda = torch.cuda.is_available() and not config.no_cuda
    mps = torch.backends.mps.is_available()
    if config.device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if not {"cpu": True, "cuda": cuda, "mps": mps}[config.device]:
        raise UserError(f"--device {config.device}: this machine offers none; leave the flag out.")
    return torch.device(config.device)


def own_device(device: torch.device) -> torch.device:
    """One CUDA device a process; UserError if there are too few on this machine."""
    if device.type != "cuda" or not distributed.launched():
        return device
    here, there = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if here > there:
        raise UserError(
            f"{here} processes on a machine of {there} CUDA devices: start one for each"
            f" (--nproc_per_node={there}), or add --no_cuda."
        )
    device = torch.device("cuda", distributed.local_rank())
    torch.cuda.set_device(device)
    return device


def be_deterministic() -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def summary(trainer: Trainer) -> str:
    """The settings, the networks' sizes, the machine."""
    config = trainer.config
    processes = f", {trainer.ranks} processes" if trainer.ranks > 1 else ""
    sizes = (f"{name} {count_parameters(net):,}" for name, net in trainer.networks.items())
    return (
        f"{config.run_name}\n{describe(config)}\n"
        f"  parameters  {', '.join(sizes)}\n"
        f"  running on  {trainer.device}, torch {torch.__version__}{processes}"
    )


def plan(trainer: Trainer) -> str:
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


if __name__ == "__main__":
    sys.exit(main())
